"""Layers of a model out of partial files: which bytes they need, and the slice that is cut from these."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.gguf_tools.inspect import shard_names
from twd.gguf_tools.model_file import hash_of_files
from twd.gguf_tools.slice import ModelSource, plan_slice
from twd.gguf_tools.slice_cache import slice_name
from twd.pieces.manifest import Manifest
from twd.pieces.names import part_of
from twd.wire.failures import FailureCode, TwdError
from twd.wire.swarm import LayerRange

Ranges = list[tuple[int, int]]
NO_HEADER: Final = "its manifest does not say where its header ends; make it again without --no-inspect"


def check_together(manifests: Sequence[Manifest]) -> None:
    """Raise TwdError unless these are all files of one model, in order."""
    first = manifests[0]
    told = [(one.filename, one.total_size, one.name) for one in manifests]
    listed = [(one.filename, one.size, one.root) for one in first.shards] or told
    named = shard_names(first.filename) or [first.filename]
    whole = hash_of_files([one.quick_hash for one in manifests])
    if told != listed or [one.filename for one in manifests] != named or first.hash not in ("", whole):
        text = f"the manifests of {first.filename} and its other files do not belong together; make them again, of all"
        raise TwdError(FailureCode.WRONG_BYTES, text)


def header_ranges(manifest: Manifest) -> Ranges:
    """Return the bytes that must come first; raises TwdError where layers of this file cannot be fetched alone."""
    if not manifest.data_offset or not manifest.quick_hash:
        text = f"layers of {manifest.filename} cannot be fetched alone: {NO_HEADER}"
        raise TwdError(FailureCode.UNSUPPORTED, text)
    return [(0, manifest.data_offset)]


def partial_source(targets: Sequence[Path], manifests: Sequence[Manifest]) -> ModelSource:
    """Return partial files as a model to cut slices from, if they hold what these need."""
    files = tuple(part_of(target) for target in targets)
    return ModelSource(files, manifests[0].hash, targets[0].stem, complete=False)


def layer_ranges(targets: Sequence[Path], manifests: Sequence[Manifest], layers: LayerRange) -> list[Ranges]:
    """Return the bytes of each file that a slice needs besides the headers, which must be there already."""
    source = partial_source(targets, manifests)
    layout = plan_slice(source, layers.first, layers.end, head=layers.head)
    found = [layout.ranges(file) for file in source.files]
    for ranges, manifest in zip(found, manifests, strict=True):
        if any(end > manifest.total_size for _, end in ranges):
            raise TwdError(FailureCode.WRONG_BYTES, f"the header of {manifest.filename} tells of bytes behind its end")
    return found


def cut_name(targets: Sequence[Path], manifests: Sequence[Manifest], layers: LayerRange) -> str:
    """Return the usual file name of a slice."""
    source = partial_source(targets, manifests)
    return slice_name(source, plan_slice(source, layers.first, layers.end, head=layers.head).facts)
