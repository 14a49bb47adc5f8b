"""Which programs this agent may start, and with which command lines. Nothing else is ever started."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from twd.gguf_tools.slice_cache import find_slice
from twd.process import platform
from twd.process.fork_server import OURS
from twd.settings.model import BinariesConfig, PoolConfig
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import ModelFile, ProcessWanted, StageWanted

ENGINE: Final = "engine"
GIB: Final = 1024**3
RPC_PROGRAMS: Final = ("rpc-server", "ggml-rpc-server")
_PROCESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
Which = Callable[[str], str | None]


def allowed(binaries: BinariesConfig) -> dict[str, str]:
    """Return every program of the allow-list, keyed by each name under which it may be requested."""
    listed = (binaries.rpc_server, binaries.llama_server, *RPC_PROGRAMS, *binaries.allow)
    names: dict[str, str] = {}
    for program in filter(None, listed):
        for name in (program, Path(program).name, Path(program).name.removesuffix(".exe")):
            names.setdefault(name, program)
    return names


def resolve(program: str, binaries: BinariesConfig, which: Which = shutil.which) -> str:
    """The path of a program on the allow-list; raises where it is not listed or not there."""
    known = allowed(binaries)
    if program not in known:
        text = (
            f"this machine does not run {program[:100]!r}; it runs {ENGINE}, {', '.join(sorted(known))}. "
            "Its owner can add it to agent.binaries.allow"
        )
        raise TwdError(FailureCode.FORBIDDEN, text, "program")
    path = which(os.path.expanduser(known[program]))
    if path is None:
        text = f"{known[program]} is not there: install it, set agent.binaries, or use {ENGINE!r}"
        raise TwdError(FailureCode.UNSUPPORTED, text, "program")
    return path


def check_process_name(name: str) -> None:
    """Raise where a process's name is not valid: it is also the name of its log."""
    if _PROCESS.fullmatch(name) is None:
        text = f"{name[:100]!r} is no name for a process: use letters, digits, dots, dashes"
        raise TwdError(FailureCode.BAD_REQUEST, text, "process")


def rpc_argv(
    program: str, host: str, port: int, threads: int, devices: Sequence[str] = (), cache: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command line of an RPC worker; `program` is empty for our own engine, else a resolved path.

    `cache` is for our own worker alone: llama.cpp's worker does not verify what its disk cache holds.
    """
    lent = [part for device in devices for part in ("--device", device)]
    own = (sys.executable, "-P", "-m", "twd.engine.rpc.worker", "--host", host, "--port", str(port), *lent, *cache)
    foreign = (program, "-H", host, "-p", str(port), *(("-d", ",".join(devices)) if devices else ()))
    return (*(foreign if program else own), *_threads(program, threads))


def cache_argv(folder: Path, pool: PoolConfig) -> tuple[str, ...]:
    """Return the options of a worker's weight cache: its folder, and its size in bytes at most (0: automatic)."""
    if not pool.worker_cache or platform.IS_WINDOWS:  # Windows cannot move a file that is open
        return ()
    size = 0 if pool.worker_cache == "auto" else round(pool.worker_cache * GIB)
    return ("--cache", str(folder), "--cache-bytes", str(size))


def stage_argv(wanted: ProcessWanted, path: str, host: str, port: int) -> tuple[str, ...]:
    """The command line of a stage; `path` is this machine's own copy of the model, or the slice alone."""
    stage = wanted.stage
    assert stage is not None
    own = (*OURS, "run", "stage", "--model", path)
    parts = ("--name", stage.model, "--layers", f"{stage.first}-{stage.end}", *(("--head",) if stage.head else ()))
    size = ("--ctx", str(stage.ctx_size), "--parallel", str(stage.parallel), "--threads", str(wanted.threads))
    types = ("--type-k", stage.type_k, "--type-v", stage.type_v)
    experts = ("--moe-stream", stage.moe_stream, "--moe-memory", str(stage.moe_memory))
    without = {"--no-exact": stage.exact, "--no-flash-attn": stage.flash_attention, "--no-mmap": stage.mmap}
    where = ("--device", stage.device, "--hash", stage.hash, "--host", host, "--port", str(port))
    return (*own, *parts, *size, *types, *experts, *(flag for flag, kept in without.items() if not kept), *where)


def on_port(argv: Sequence[str], port: int) -> tuple[str, ...]:
    """The same command line for another port."""
    at = argv.index("--port") + 1
    return (*argv[:at], str(port), *argv[at + 1 :])


def drafter_argv(wanted: ProcessWanted, path: str) -> tuple[str, ...]:
    """The command line of a drafter over this machine's own copy of the file."""
    drafter = wanted.drafter
    assert drafter is not None
    own = (*OURS, "run", "drafter", f"--model={path}", f"--name={drafter.name}")
    size = (f"--ctx={drafter.ctx_size}", f"--threads={wanted.threads}", f"--gpu-layers={drafter.gpu_layers}")
    return (*own, f"--for-model={drafter.for_model}", *size)


def find_draft_model(wanted: ProcessWanted, models: Sequence[ModelFile], named: Collection[str]) -> str:
    """Return the path of a drafter's model on this machine; `named` are the draft models that its own settings name."""
    drafter = wanted.drafter
    if drafter is None:
        raise TwdError(FailureCode.BAD_REQUEST, "a drafter needs to know its model", "drafter")
    for model in models:
        if model.hash == drafter.hash if drafter.hash else model.path == drafter.path:
            return model.path
    if drafter.path in named and Path(drafter.path).is_file():
        return drafter.path
    text = (
        f"there is no copy of {drafter.path} on this machine; put one into a folder of agent.model_dirs, or name it "
        "in drafters here"
    )
    raise TwdError(FailureCode.MODEL_NOT_FOUND, text, "drafter.path")


def find_model(wanted: ProcessWanted, models: Sequence[ModelFile], slices: Path) -> str:
    """Return the path of a stage's model on this machine, or of its slice in the folder `slices`; raises where there is
    neither."""
    stage = wanted.stage
    if stage is None:
        raise TwdError(FailureCode.BAD_REQUEST, "a stage needs to know its slice", "stage")
    found = next((model for model in models if model.hash == stage.hash), None)
    if found is not None:
        return found.path
    alone = find_slice(slices, stage.hash, stage.first, stage.end, stage.head)
    if alone is not None:
        return str(alone)
    raise TwdError(FailureCode.MODEL_NOT_FOUND, _why_not_found(stage, models), "stage.hash")


def _why_not_found(stage: StageWanted, models: Sequence[ModelFile]) -> str:
    named = next((model for model in models if model.name == stage.file), None)
    text = f"there is no copy of {stage.file} on this machine; put one into a folder of agent.model_dirs"
    if named is not None:
        text = (
            f"{named.path} is another file than the one that is wanted ({named.hash[:8]} here, {stage.hash[:8]} "
            "there); copy it anew"
        )
    return text


def _threads(program: str, threads: int) -> Iterable[str]:
    if not threads:
        return ()
    return ("-t" if program else "--threads", str(threads))
