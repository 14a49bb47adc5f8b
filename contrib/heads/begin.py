"""The weights that a head begins with: those of the target's last layer, and a vector that is that layer's input."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_SMALL = 0.02


def first_weights(
    target: dict[str, Floats], inputs: npt.NDArray[np.float16], heads: int, vocabulary: npt.NDArray[np.int64]
) -> dict[str, Floats]:
    """All weights of a head, as matrices that rows are multiplied with from the left.

    `inputs`: some rows of what the head will read, by which its entrance is scaled. Each attention head gets keys and
    values of its own, since what the next token is comes in through them alone.
    """
    dice = np.random.default_rng(3)
    width = target["embedding"].shape[1]
    spread = inputs.astype(np.float32).std(axis=0) + 1e-6
    usual, last = float(np.sqrt((spread**2).mean())), float(np.sqrt((spread[-width:] ** 2).mean()))
    entrance = dice.normal(0, _SMALL / 2, (3 * width, width))
    entrance[-width:] += np.diag(spread[-width:] / last)
    found = {"enc.output_norm": last * usual / spread, "fc": entrance, "attn_norm": np.ones(width)}
    found["attn_norm_2"] = target["attn_norm"]
    for name in ("attn_q", "attn_k", "attn_v"):
        own = _each_head(target[name], heads, target["attn_q"].shape[0] // heads).T
        found[name] = np.concatenate((dice.normal(0, _SMALL, own.shape), own))
    for name in ("attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        found[name] = target[name].T
    found |= {name: target[name] for name in ("ffn_norm", "output_norm")}
    found["output"] = target["output"][vocabulary]
    return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def _each_head(matrix: Floats, heads: int, size: int) -> Floats:
    """Rows of keys or values for each head, where several shared them."""
    shared = matrix.reshape(-1, size, matrix.shape[1])
    return np.repeat(shared, heads // len(shared), axis=0).reshape(heads * size, -1)
