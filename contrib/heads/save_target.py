"""Takes from the target's file what the training needs: embedding, output matrix, last layer and a few numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from contrib.heads.target import Floats

_LAYER: Final = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def save_target(model: Path, layers: Sequence[int], ends: Sequence[int], path: Path) -> None:
    """Write these weights to a file of numpy's."""
    reader = gguf.GGUFReader(str(model))
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def weights(name: str) -> Floats:
        tensor = tensors[f"{name}.weight"]
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return np.asarray(found.reshape([int(size) for size in reversed(tensor.shape)]), np.float32)

    architecture = reader.fields["general.architecture"].contents()

    def fact(name: str, otherwise: Any = None) -> Any:
        field = reader.fields.get(f"{architecture}.{name}")
        return otherwise if field is None else field.contents()

    last = int(fact("block_count")) - 1
    found = {name: weights(f"blk.{last}.{name}") for name in _LAYER}
    found["embedding"], found["output_norm"] = weights("token_embd"), weights("output_norm")
    found["output"] = weights("output") if "output.weight" in tensors else found["embedding"]
    facts = {
        "layers": list(layers),
        "ends": list(ends),
        "vocabulary": len(found["embedding"]),
        "heads": int(fact("attention.head_count")),
        "base": float(fact("rope.freq_base", 10_000.0)),
        "epsilon": float(fact("attention.layer_norm_rms_epsilon")),
        "context": int(fact("context_length")),
    }
    np.savez(path, facts=np.array(json.dumps(facts)), **found)  # type: ignore[arg-type]
