"""What this agent may start, and with which command line. Nothing else is ever started."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from twd.kit.settings import Binaries
from twd.wire.failures import FailureCode, TwdError

ENGINE: Final = "engine"
RPC_PROGRAMS: Final = ("rpc-server", "ggml-rpc-server")
_PROCESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
Which = Callable[[str], str | None]


def allowed(binaries: Binaries) -> dict[str, str]:
    """Every program of the allow-list by the names under which it may be asked for."""
    listed = (binaries.rpc_server, binaries.llama_server, *RPC_PROGRAMS, *binaries.allow)
    names: dict[str, str] = {}
    for program in listed:
        for name in (program, Path(program).name, Path(program).name.removesuffix(".exe")):
            names.setdefault(name, program)
    return names


def resolve(program: str, binaries: Binaries, which: Which = shutil.which) -> str:
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
    """A process's name is also its log's."""
    if _PROCESS.fullmatch(name) is None:
        text = f"{name[:100]!r} is no name for a process: use letters, digits, dots, dashes"
        raise TwdError(FailureCode.BAD_REQUEST, text, "process")


def rpc_argv(program: str, host: str, port: int, threads: int) -> tuple[str, ...]:
    """The command line of an RPC worker; `program` is empty for our own engine, else a resolved path."""
    own = (sys.executable, "-P", "-m", "twd.engine.rpc_worker", "--host", host, "--port", str(port))
    foreign = (program, "-H", host, "-p", str(port))
    return (*(foreign if program else own), *_threads(program, threads))


def _threads(program: str, threads: int) -> Iterable[str]:
    if not threads:
        return ()
    return ("-t" if program else "--threads", str(threads))
