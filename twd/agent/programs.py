"""Asking a program something: its output, or in words why there is none. Every call has a deadline."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from twd.process import platform

OUTPUT_MAX: Final = 1024 * 1024
ASK_S: Final = 5.0
KILLED_S: Final = 1.0
"""What a driver holds does not even end when it is killed."""


class ProgramFailed(Exception):
    """The program is not there, failed, or took too long."""


async def output_of(
    argv: Sequence[str],
    timeout_s: float = ASK_S,
    *,
    with_errors: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a program writes; `with_errors` takes what it writes to stderr too, and minds no exit code. `environment` is
    what it finds besides ours."""
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
            platform.kill_group(process.pid)  # with what it started: that holds its output, and would be waited for
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), KILLED_S)
    if process.returncode and not with_errors:
        raise ProgramFailed(f"{argv[0]} ended with exit code {process.returncode}")
    return out[:OUTPUT_MAX].decode("utf-8", "replace")
