"""Mixtures for tests: SmolLM2 upcycled, and tiny random ones in every layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.generic]
EXPERTS: Final = 4
_PARTS: Final = ("ffn_gate", "ffn_up", "ffn_down")


def write_random(
    path: Path,
    *,
    layout: str = "fused",
    experts: int = EXPERTS,
    used: int = 2,
    layers: int = 2,
    width: int = 64,
    inner: int = 32,
    gate_up: bool = False,
    biases: bool = False,
    shared: bool = False,
    output: bool = True,
    name: str = "tiny",
    claimed: int | None = None,
    broken: Mapping[str, Values | None] | None = None,
    shards: int = 1,
) -> Path:
    """A mixture that llama.cpp need not load. `broken` puts other values in place of tensors; None leaves one out."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=0 if shards == 1 else _per_shard(layers, shards))
    writer.add_name(name)
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.add_head_count(2)
    writer.add_context_length(512)
    writer.add_expert_count(experts if claimed is None else claimed)
    writer.add_expert_used_count(used)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    dice = np.random.default_rng(7)
    tensors: dict[str, Values | None] = {"token_embd.weight": _of(dice, 48, width)}
    for layer in range(layers):
        tensors |= _layer(dice, layer, experts, width, inner, layout, gate_up, biases, shared)
    tensors["output_norm.weight"] = _of(dice, width)
    if output:
        tensors["output.weight"] = _of(dice, 48, width)
    for key, values in (tensors | dict(broken or {})).items():
        if values is not None:
            writer.add_tensor(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if shards == 1 else next(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def _per_shard(layers: int, shards: int) -> int:
    return -(-(3 + 5 * layers) // shards)


def _layer(
    dice: np.random.Generator,
    layer: int,
    experts: int,
    width: int,
    inner: int,
    layout: str,
    gate_up: bool,
    biases: bool,
    shared: bool,
) -> dict[str, Values | None]:
    start = f"blk.{layer}."
    found: dict[str, Values | None] = {f"{start}attn_norm.weight": _of(dice, width)}
    found[f"{start}ffn_gate_inp.weight"] = _of(dice, experts, width)
    found[f"{start}exp_probs_b.bias"] = _of(dice, experts)
    shapes = {"ffn_gate_up": (2 * inner, width)} if gate_up else {"ffn_gate": (inner, width), "ffn_up": (inner, width)}
    for part, shape in (shapes | {"ffn_down": (width, inner)}).items():
        _add(found, f"{start}{part}", "weight", _quantised(dice, experts, *shape), layout)
        if biases:
            _add(found, f"{start}{part}", "bias", _of(dice, experts, shape[0]), layout)
    if shared:
        found[f"{start}ffn_up_shexp.weight"] = _of(dice, inner, width)
    return found


def _add(found: dict[str, Values | None], name: str, suffix: str, values: Values, layout: str) -> None:
    if layout == "fused":
        found[f"{name}_exps.{suffix}"] = values
    else:
        found |= {f"{name}.{expert}.{suffix}": one for expert, one in enumerate(values)}


def _of(dice: np.random.Generator, *shape: int) -> Values:
    return dice.standard_normal(shape).astype(np.float32)


def _quantised(dice: np.random.Generator, *shape: int) -> Values:
    return dice.standard_normal(shape).astype(np.float16)


def upcycle(dense: Path, path: Path, *, experts: int = 8, used: int = 2, indexed: bool = False) -> Path:
    """Every layer's feed-forward network `experts` times over, with a random router: the text is the dense model's."""
    reader, writer = gguf.GGUFReader(dense), gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), kind)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(used)
    dice = np.random.default_rng(3)
    for tensor in reader.tensors:
        _upcycle_tensor(writer, tensor, experts, indexed, dice)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _upcycle_tensor(
    writer: gguf.GGUFWriter, tensor: gguf.ReaderTensor, experts: int, indexed: bool, dice: np.random.Generator
) -> None:
    base, values, kind = tensor.name.removesuffix(".weight"), np.array(tensor.data), tensor.tensor_type
    if not base.endswith(_PARTS):
        writer.add_tensor(tensor.name, values, raw_dtype=kind)
        return
    if base.endswith("ffn_gate"):
        router = dice.standard_normal((experts, int(tensor.shape[0]))) * 0.05
        writer.add_tensor(f"{base}_inp.weight", router.astype(np.float32))
    if indexed:
        for expert in range(experts):
            writer.add_tensor(f"{base}.{expert}.weight", values, raw_dtype=kind)
    else:
        writer.add_tensor(f"{base}_exps.weight", np.stack([values] * experts), raw_dtype=kind)
