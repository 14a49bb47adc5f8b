"""Layers of a model out of a partial file: which bytes of it they need, and the slice that is cut from these."""

from pathlib import Path
from typing import Final

from twd.gguf_tools.slice import ModelSource, plan_slice
from twd.gguf_tools.slice_cache import slice_name
from twd.pieces.manifest import Manifest
from twd.pieces.names import part_of
from twd.wire.failures import FailureCode, TwdError
from twd.wire.swarm import LayerRange

Ranges = list[tuple[int, int]]
NO_HEADER: Final = "its manifest does not say where its header ends; make it again without --no-inspect"


def header_ranges(manifest: Manifest) -> Ranges:
    """Return the bytes that must come first; raises TwdError where layers of this file cannot be fetched alone."""
    why = ""
    if manifest.shards:
        why = f"it has {len(manifest.shards)} files; pull all of them, without --layers"
    elif not manifest.data_offset or not manifest.quick_hash:
        why = NO_HEADER
    if why:
        raise TwdError(FailureCode.UNSUPPORTED, f"layers of {manifest.filename} cannot be fetched alone: {why}")
    return [(0, manifest.data_offset)]


def partial_source(target: Path, manifest: Manifest) -> ModelSource:
    """Return a partial file as a model to cut slices from, if it holds what they need."""
    return ModelSource((part_of(target),), manifest.quick_hash, target.stem, complete=False)


def layer_ranges(target: Path, manifest: Manifest, layers: LayerRange) -> Ranges:
    """Return the bytes that a slice needs besides the header, which must be there already."""
    layout = plan_slice(partial_source(target, manifest), layers.first, layers.end, head=layers.head)
    ranges = layout.ranges()
    if any(end > manifest.total_size for _, end in ranges):
        raise TwdError(FailureCode.WRONG_BYTES, f"the header of {manifest.filename} tells of bytes behind its end")
    return ranges


def cut_name(target: Path, manifest: Manifest, layers: LayerRange) -> str:
    """Return the usual file name of a slice."""
    source = partial_source(target, manifest)
    return slice_name(source, plan_slice(source, layers.first, layers.end, head=layers.head).facts)
