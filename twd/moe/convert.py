"""Write a mixture in the other layout: one streamed pass, and there whole or not at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from twd.gguf_tools.encode import encode_start, encode_tensor
from twd.gguf_tools.header import aligned
from twd.kit.progress import Share, unheard
from twd.moe.model import MixtureFile, read_mixture
from twd.moe.new_file import FileCopier, disk_errors, new_file, write_all
from twd.moe.rewrite import RewritePlan, plan_defuse, plan_fuse, source_files
from twd.wire.failures import FailureCode, TwdError

Direction = Literal["defuse", "fuse"]
_SLACK_BYTES: Final = 1 << 20
"""For the header of the new file, beside that of the old."""


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """What was written. `changed` counts tensors of the old file that were split or joined."""

    path: Path
    size_bytes: int
    tensors: int
    changed: int
    experts: int


def convert(
    source: Path, target: Path, direction: Direction, *, replace: bool = False, progress: Share = unheard
) -> ConvertedFile:
    """Write `source` to `target` with single experts (`defuse`) or with fused ones (`fuse`); all shards become one."""
    model = read_mixture(source)
    plan = plan_defuse(model) if direction == "defuse" else plan_fuse(model)
    with disk_errors(target):
        _check_target(model, target, replace)
        _check_room(plan, target)
    with new_file(target) as handle:
        _write(handle, plan, progress)
    return ConvertedFile(target, target.stat().st_size, len(plan.tensors), plan.changed, model.experts)


def _check_target(model: MixtureFile, target: Path, replace: bool) -> None:
    if target.is_dir():
        raise TwdError(FailureCode.BAD_REQUEST, f"{target} is a folder; name a file in it")
    if not target.exists():
        return
    if any(target.samefile(shard) for shard in source_files(model)):
        raise TwdError(FailureCode.BAD_REQUEST, f"{target} is the model itself; name another file for the result")
    if not replace:
        raise TwdError(FailureCode.BAD_REQUEST, f"{target} is there already; --force replaces it")


def _check_room(plan: RewritePlan, target: Path) -> None:
    folder = next((parent for parent in target.absolute().parents if parent.is_dir()), Path("/"))
    needed, free = plan.size_bytes + sum(one.size for one in plan.fields) + _SLACK_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"it needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free in {folder}"
        text = f"no room for {target.name}: {sizes}; free some space there, or name another folder"
        raise TwdError(FailureCode.MODEL_LOAD, text)


def _write(handle: int, plan: RewritePlan, progress: Share) -> None:
    with FileCopier(handle) as copier:
        write_all(handle, encode_start(len(plan.tensors), len(plan.fields)))
        for one in plan.fields:
            for _ in copier.copy(one.path, one.offset, one.size):
                pass
        write_all(handle, _tensor_table(plan))
        _write_tensors(handle, plan, copier, progress)


def _tensor_table(plan: RewritePlan) -> bytes:
    offset, table = 0, bytearray()
    for tensor in plan.tensors:
        table += encode_tensor(tensor.name, tensor.shape, tensor.kind, offset)
        offset += aligned(tensor.size, plan.alignment)
    return bytes(table)


def _write_tensors(handle: int, plan: RewritePlan, copier: FileCopier, progress: Share) -> None:
    at = os.lseek(handle, 0, os.SEEK_CUR)
    total, done = max(plan.size_bytes, 1), 0
    at = aligned(at, plan.alignment)
    for tensor in plan.tensors:
        os.lseek(handle, at, os.SEEK_SET)
        for source in tensor.sources:
            for count in copier.copy(source.path, source.offset, source.size):
                done += count
                progress(min(done / total, 1.0))
        at += aligned(tensor.size, plan.alignment)
    os.ftruncate(handle, at)
