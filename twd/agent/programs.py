"""Runs a program and returns its output, or raises the reason why there is none. Every call has a deadline."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from twd.process import platform

OUTPUT_MAX: Final = 1024 * 1024
ASK_S: Final = 5.0
KILLED_S: Final = 1.0
"""Seconds to wait for a killed program to end: one that is stuck in a driver does not end even then."""


class ProgramFailed(Exception):
    """The program is not there, failed, or took too long."""


async def output_of(
    argv: Sequence[str],
    timeout_s: float = ASK_S,
    *,
    with_errors: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return what a program writes to stdout. `with_errors` adds stderr and accepts any exit code. `environment` is
    added to our own environment."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if with_errors else asyncio.subprocess.DEVNULL,
            **platform.spawn_options(),
        )
    except OSError as error:
        raise ProgramFailed(f"{argv[0]} cannot be started: {error.strerror}") from None
    answered = False
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate()
        answered = True
    except TimeoutError:
        raise ProgramFailed(f"{argv[0]} did not answer within {timeout_s:g} s") from None
    finally:
        if not answered:
            platform.kill_group(process.pid)  # its children, too: they hold its output open
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), KILLED_S)
    if process.returncode and not with_errors:
        raise ProgramFailed(f"{argv[0]} ended with exit code {process.returncode}")
    return out[:OUTPUT_MAX].decode("utf-8", "replace")
