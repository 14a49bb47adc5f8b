"""Writes a trained head as a GGUF file: architecture `eagle3`, as llama.cpp's own converter writes it.

python contrib/heads export head.npz MODEL --out head.gguf
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_ARCHITECTURE: Final = "eagle3"
_IN_LAYER: Final = ("attn_", "ffn_")
KINDS: Final = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def write_head(
    path: Path, model: Path, weights: Mapping[str, Floats], vocabulary: npt.NDArray[np.int64], facts: Any, kind: str
) -> None:
    """Write a head. `model`: the target, whose tokenizer the file also gets; `kind`: the type of its matrices."""
    writer = gguf.GGUFWriter(path, _ARCHITECTURE)
    _add_facts(writer, weights, facts)
    _add_tokenizer(writer, gguf.GGUFReader(str(model)))
    for name, values in weights.items():
        _add(writer, f"blk.0.{name}" if name.startswith(_IN_LAYER) else name, values, KINDS[kind])
    writer.add_tensor("d2t", vocabulary.astype(np.int64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_facts(writer: gguf.GGUFWriter, weights: Mapping[str, Floats], facts: Any) -> None:
    width, size = weights["fc"].shape[1], weights["attn_q"].shape[1] // facts["heads"]
    writer.add_name("a head that guesses for another model")
    writer.add_vocab_size(facts["vocabulary"])
    writer.add_context_length(facts["context"])
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(weights["ffn_up"].shape[1])
    writer.add_head_count(facts["heads"])
    writer.add_head_count_kv(weights["attn_k"].shape[1] // size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(facts["epsilon"])
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(facts["base"])
    writer.add_array(f"{_ARCHITECTURE}.target_layers", [int(layer) for layer in facts["layers"]])
    writer.add_uint32(f"{_ARCHITECTURE}.target_hidden_size", weights["fc"].shape[0] // len(facts["layers"]))
    writer.add_bool(f"{_ARCHITECTURE}.norm_before_fc", True)
    writer.add_bool(f"{_ARCHITECTURE}.norm_before_residual", False)


def _add_tokenizer(writer: gguf.GGUFWriter, reader: gguf.GGUFReader) -> None:
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.") and name != "tokenizer.chat_template":
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)


def _add(writer: gguf.GGUFWriter, name: str, values: Floats, kind: gguf.GGMLQuantizationType) -> None:
    """Matrices are stored with a row for each output, which `output` has already."""
    if values.ndim == 1:
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
        return
    rows = np.ascontiguousarray(values if name == "output" else values.T, np.float32)
    writer.add_tensor(f"{name}.weight", gguf.quants.quantize(rows, kind), raw_dtype=kind)
