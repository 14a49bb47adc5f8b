"""A tiny random assistant of Gemma 4, which reads the target's KV cells, and what it should guess, by numpy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import gguf
import numpy as np

from tests.engine.block_reference import product
from tests.engine.head_inputs import tensors_of
from tests.engine.slices.recipes import VOCABULARY, Recipe, Weights, recipe

LAYERS: Final = 3
_WIDTH, _TARGET, _HEADS = 32, 64, 2
_EACH: Final = {True: 32, False: 64}
_EPSILON: Final = 1e-5
_WINDOWS: Final = [True, True, False]
_SAME: Final = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.key_length",
    "attention.key_length_swa",
    "attention.value_length",
    "attention.value_length_swa",
    "context_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.dimension_count_swa",
    "rope.freq_base_swa",
    "vocab_size",
)
"""Fields that it has in common with its target."""


def assistant() -> Recipe:
    """Two layers with a sliding window, and one without."""
    fields: dict[str, tuple[str, Any]] = {
        "block_count": ("UINT32", LAYERS),
        "nextn_predict_layers": ("UINT32", LAYERS),
        "embedding_length": ("UINT32", _WIDTH),
        "embedding_length_out": ("UINT32", _TARGET),
        "attention.sliding_window_pattern": ("BOOL", list(_WINDOWS)),
    }
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, _WIDTH),
        "output_norm.weight": (_WIDTH,),
        "nextn.pre_projection.weight": (_WIDTH, 2 * _TARGET),
        "nextn.post_projection.weight": (_TARGET, _WIDTH),
        "rope_freqs.weight": (_EACH[False] // 2,),
    }
    for layer, window in enumerate(_WINDOWS):
        asked = _HEADS * _EACH[window]
        shapes: dict[str, tuple[int, ...]] = {
            "attn_q": (asked, _WIDTH),
            "attn_q_norm": (_EACH[window],),
            "attn_output": (_WIDTH, asked),
            "layer_output_scale": (1,),
            "ffn_gate": (96, _WIDTH),
            "ffn_up": (96, _WIDTH),
            "ffn_down": (_WIDTH, 96),
        }
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        shapes |= dict.fromkeys(norms, (_WIDTH,))
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    same = recipe("gemma4").fields
    return Recipe("gemma4-assistant", {name: same[name] for name in _SAME} | fields, tensors)


def attentive(name: str, values: Weights) -> Weights:
    """Weights with which a guess depends on what cells are read, and not on their last bits."""
    if name.endswith("attn_q_norm.weight"):
        return np.asarray(values / 6, np.float32)
    if name.endswith("post_attention_norm.weight"):
        return 4 * values
    return 1 + values if name.endswith(("layer_output_scale.weight", "rope_freqs.weight")) else values


class Guess(NamedTuple):
    """A guess, its probability, and how much larger its logit is than the next one."""

    token: int
    share: float
    lead: float


@dataclass(frozen=True)
class SharedReference:
    """An assistant, and its target."""

    path: Path
    target: Path

    @cached_property
    def own(self) -> dict[str, Weights]:
        return tensors_of(self.path)

    @cached_property
    def theirs(self) -> dict[str, Weights]:
        return tensors_of(self.target)

    @cached_property
    def target_layers(self) -> int:
        return int(gguf.GGUFReader(self.target).fields["gemma4.block_count"].contents())

    def guess(self, inputs: dict[int, Weights], state: Weights, text: Sequence[int], count: int) -> list[Guess]:
        """The likeliest guesses behind `text`. `inputs`: of the target's last two layers, for all tokens but the last;
        `state`: what the target gives for the last of these."""
        written, found = list(text), list[Guess]()
        cells = {layer: self._cells(layer, rows) for layer, rows in inputs.items()}
        for logits in self._steps(cells, state, written, count):
            second, first = np.sort(logits)[-2:]
            share = 1 / np.exp(logits - first).sum()
            found.append(Guess(int(logits.argmax()), float(share), float(first - second)))
            written.append(found[-1].token)
        return found

    def _steps(
        self, cells: dict[int, tuple[Weights, Weights]], state: Weights, text: list[int], count: int
    ) -> Iterator[Weights]:
        at = len(text) - 1
        for _ in range(count):
            token = self.theirs["token_embd.weight"][text[-1]] * np.sqrt(_TARGET)
            rows = product(np.concatenate((token, state)), self.own["nextn.pre_projection.weight"])
            for layer, window in enumerate(_WINDOWS):
                rows = self._layer(layer, rows, *cells[self.target_layers - (2 if window else 1)], at)
            rows = _norm(rows, self.own["output_norm.weight"])
            state = product(rows, self.own["nextn.post_projection.weight"])
            yield product(rows, self.own["token_embd.weight"])

    def _cells(self, layer: int, inputs: Weights) -> tuple[Weights, Weights]:
        """The keys and values that the target keeps of a layer, which has one head for them."""
        window, of = layer == self.target_layers - 2, f"blk.{layer}.attn_"
        rows = _norm(inputs, self.theirs[f"{of}norm.weight"])
        keys = _norm(product(rows, self.theirs[f"{of}k.weight"]), self.theirs[f"{of}k_norm.weight"])
        values = product(rows, self.theirs[f"{of}v.weight"])
        factors = None if window else self.theirs["rope_freqs.weight"]
        return _rotated(keys, np.arange(len(keys)), factors), _norm(values, np.float32(1))

    def _layer(self, layer: int, rows: Weights, keys: Weights, values: Weights, at: int) -> Weights:
        window, own = _WINDOWS[layer], {name: self.own[f"blk.{layer}.{name}.weight"] for name in _NAMES}
        first = max(0, at - int(recipe("gemma4").fields["attention.sliding_window"][1]) + 1) if window else 0
        asked = product(_norm(rows, own["attn_norm"]), own["attn_q"]).reshape(_HEADS, _EACH[window])
        factors = None if window else self.own["rope_freqs.weight"]
        asked = _rotated(_norm(asked, own["attn_q_norm"]), np.full(_HEADS, at), factors)
        scores = asked @ keys[first:].T
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        found = (shares / shares.sum(axis=1, keepdims=True)) @ values[first:]
        rows = rows + _norm(product(found.reshape(-1), own["attn_output"]), own["post_attention_norm"])
        inner = _norm(rows, own["ffn_norm"])
        fed = product(_gelu(product(inner, own["ffn_gate"])) * product(inner, own["ffn_up"]), own["ffn_down"])
        return np.asarray((rows + _norm(fed, own["post_ffw_norm"])) * own["layer_output_scale"])


_NAMES: Final = (
    "attn_norm",
    "attn_q",
    "attn_q_norm",
    "attn_output",
    "post_attention_norm",
    "layer_output_scale",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "post_ffw_norm",
)


def _norm(rows: Weights, weight: Any) -> Weights:
    return np.asarray(weight * rows / np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + _EPSILON))


def _gelu(rows: Weights) -> Weights:
    return np.asarray(0.5 * rows * (1 + np.tanh(np.sqrt(2 / np.pi) * (rows + 0.044715 * rows**3))))


def _rotated(rows: Weights, places: Any, factors: Weights | None) -> Weights:
    """Turn the first half of each row against the second by its position."""
    half = rows.shape[-1] // 2
    speeds = 10000.0 ** (-np.arange(half) / half) / (1.0 if factors is None else factors)
    angles = places[:, None] * speeds
    first, second = rows[:, :half], rows[:, half:]
    turned = first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)
    return np.concatenate(turned, axis=-1)
