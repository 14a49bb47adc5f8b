"""Tiny random models of nearly every architecture, from the recipes in `recipes.json`.

A recipe has the metadata and the shapes of the tensors of one model. They come from llama.cpp's own generator of test
models (its program `test-llama-archs`), made smaller, and with eight layers.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

from tests.gguf_fields import fields_of

VOCABULARY: Final = 96
_FILE: Final = Path(__file__).with_name("recipes.json")


Weights = npt.NDArray[np.float32]
Change = Callable[[str, Weights], Weights]


@dataclass(frozen=True)
class Recipe:
    """What one model is made of."""

    architecture: str
    fields: dict[str, tuple[str, Any]]
    tensors: dict[str, tuple[int, ...]]
    vocabulary: tuple[Callable[[gguf.GGUFWriter], None], ...] = ()

    @property
    def layers(self) -> int:
        return int(self.fields["block_count"][1])

    def write(
        self, path: Path, seed: int = 5, change: Change = lambda name, values: values, speaks: Path | None = None
    ) -> Path:
        """Write the model. `change` gives the weights of a tensor another value; `speaks`: a model whose vocabulary it
        gets."""
        if speaks is not None:
            return _speaking(self, speaks).write(path, seed, change)
        writer = gguf.GGUFWriter(path, self.architecture)
        for add in self.vocabulary or (_no_vocabulary,):
            add(writer)
        for name, (kind, value) in self.fields.items():
            whole = name.startswith(("general.", "tokenizer."))
            _add(writer, name if whole else f"{self.architecture}.{name}", kind, value)
        dice = np.random.default_rng(seed)
        for name, shape in self.tensors.items():
            writer.add_tensor(name, change(name, _weights(dice, name, shape)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def recipe(name: str) -> Recipe:
    """The recipe of this name: an architecture, or a variant of one."""
    known = _known()
    one = known["models"][name]
    fields = {key: value for key, value in {**known["fields"], **one["fields"]}.items() if value is not None}
    tensors = {key: tuple(shape) for key, shape in one["tensors"].items()}
    for numbers, shapes in one["layers"]:
        tensors |= {f"blk.{at}.{key}": tuple(shape) for at in numbers for key, shape in shapes.items()}
    return Recipe(one["architecture"], fields, tensors)


def names() -> list[str]:
    """All recipes, but for those of heads."""
    return [name for name, one in _known()["models"].items() if one["architecture"] not in ("eagle3", "dflash")]


@cache
def _known() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
    return known


def _no_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("no_vocab")


def _speaking(one: Recipe, source: Path) -> Recipe:
    """The recipe with the vocabulary and the chat template of another model."""
    fields = [field for field in fields_of(source) if field.name.startswith(("tokenizer.", "general.name"))]
    size = next(field.length for field in fields if field.name == "tokenizer.ggml.tokens")
    tensors = {
        name: (size, *shape[1:]) if name in ("token_embd.weight", "output.weight") else shape
        for name, shape in one.tensors.items()
    }
    vocabulary = tuple(field.write for field in fields)
    return Recipe(one.architecture, {**one.fields, "vocab_size": ("UINT32", size)}, tensors, vocabulary)


def _add(writer: gguf.GGUFWriter, key: str, kind: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[kind])
    else:
        writer.add_key_value(key, value, gguf.GGUFValueType[kind])


def _weights(dice: np.random.Generator, name: str, shape: tuple[int, ...]) -> Weights:
    """Random weights of a size at which a token's logits depend on all that was before."""
    values = dice.standard_normal(shape)
    if name.endswith("ssm_a"):
        values = -np.abs(values)
    elif "norm" in name and name.endswith("weight"):
        values = 1 + values / 10
    elif name.endswith("bias") or len(shape) == 1:
        values /= 10
    elif name != "token_embd.weight":
        values /= np.sqrt(shape[-1])
    return values.astype(np.float32)
