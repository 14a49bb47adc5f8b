"""A GGUF file as machines tell each other of it: what it is, and a quick hash that tells copies apart."""

import hashlib
from pathlib import Path
from typing import Final

from twd.gguf_tools.inspect import inspect
from twd.wire.failures import TwdError
from twd.wire.node import ModelFile

SAMPLE_BYTES: Final = 1024 * 1024


def read_model(path: Path) -> ModelFile:
    """What a file says of itself; one that cannot be used says why."""
    name = path.name.removesuffix(".gguf").split("-00001-of-")[0]
    try:
        info = inspect(path)
        return ModelFile(
            name=name,
            path=str(path),
            size_bytes=info.size_bytes,
            hash=quick_hash(path),
            architecture=info.architecture,
            quantization=info.quantization,
            parameters=info.parameters,
            layers=info.layers,
            ctx_size=info.context_length,
            shards=len(info.shards),
        )
    except (TwdError, OSError) as error:
        return ModelFile(name=name, path=str(path), size_bytes=0, problem=str(error)[:1024])


def quick_hash(path: Path) -> str:
    """Of the size, the head and the tail: quick for any size, and different for different models."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE_BYTES))
        file.seek(max(0, size - SAMPLE_BYTES))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]
