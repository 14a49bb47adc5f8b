"""Describes a GGUF file for other machines: its facts, and a quick hash that identifies the model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.gguf_tools.inspect import inspect, shards_of
from twd.wire.failures import TwdError
from twd.wire.node import ModelFile

SAMPLE_BYTES: Final = 1024 * 1024
_PLACES: Final = 64
_PLACE_BYTES: Final = 4096


def read_model(path: Path) -> ModelFile:
    """The facts of a model file; if it cannot be used, `problem` says why."""
    whole = path.name.removesuffix(".gguf")
    name = whole.split("-00001-of-")[0] or whole
    try:
        info = inspect(path)
        return ModelFile(
            name=name,
            path=str(path),
            size_bytes=info.size_bytes,
            hash=file_hash(path),
            architecture=info.architecture,
            quantization=info.quantization,
            parameters=info.parameters,
            layers=info.layers,
            ctx_size=info.context_length,
            shards=len(info.shards),
        )
    except (TwdError, OSError) as error:
        return ModelFile(name=name, path=str(path), size_bytes=0, problem=str(error)[:1024])


def file_hash(path: Path) -> str:
    """A quick hash over all files of a model: the same on every machine that has the same model."""
    return hash_of_files([quick_hash(shard) for shard in shards_of(path)])


def hash_of_files(hashes: Sequence[str]) -> str:
    """The quick hash of a model, from those of its files in order."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]


def quick_hash(path: Path) -> str:
    """A hash of the file's size, its beginning, its end and samples between. It is quick for any size. It differs for
    different models, and for a copy that stopped in the middle."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE_BYTES))
        if size > 2 * SAMPLE_BYTES:
            for place in range(1, _PLACES):
                file.seek(size * place // _PLACES)
                digest.update(file.read(_PLACE_BYTES))
        file.seek(max(0, size - SAMPLE_BYTES))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def why_no_file(path: Path) -> str:
    """Why this path cannot be read as a file, and what to name instead; empty for a file, and where nothing is."""
    if path.is_dir():
        return "is a folder; name a file in it"
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        return "is a pipe or a device; name a file"
    return ""
