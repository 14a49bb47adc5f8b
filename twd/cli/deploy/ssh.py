"""Runs scripts on another machine by the system's own ssh, which asks nothing and trusts no host key unseen."""

import asyncio
import base64
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, NamedTuple

from twd.cli.deploy.targets import DeployTarget
from twd.wire.failures import FailureCode, TwdError

OPTIONS: Final = (
    ("BatchMode", "yes"),
    ("StrictHostKeyChecking", "yes"),
    ("ConnectTimeout", "10"),
    ("ServerAliveInterval", "5"),
    ("ServerAliveCountMax", "3"),
    ("ForwardAgent", "no"),
)
SSH_FAILED: Final = 255
SAID_BYTES: Final = 1 << 20
"""The most that is read of what a machine says."""
END_S: Final = 5.0
CAUSES: Final = (
    (
        "IDENTIFICATION HAS CHANGED",
        "its host key is another one than ssh knows: find out why; `ssh-keygen -R` forgets it",
    ),
    (
        "Host key verification failed",
        "ssh does not know its host key: connect once by hand, and compare the fingerprint",
    ),
    ("Permission denied", "ssh does not let this user in without a password: install a key there (`ssh-copy-id`)"),
    ("Too many authentication failures", "ssh does not let this user in: name the key in ssh's config (IdentityFile)"),
    ("Could not resolve", "its name cannot be resolved: correct it, or name it in ssh's config"),
    ("Connection refused", "no ssh server answers there: start one, or name its port in ssh's config"),
    ("timed out", "it does not answer: is it on, and in this network?"),
    ("No route to host", "it is not in this network, or off"),
)


class SshFailed(TwdError):
    """The connection did not come about or broke."""

    def __init__(self, text: str) -> None:
        super().__init__(FailureCode.BACKEND_DOWN, text)


class RemoteResult(NamedTuple):
    """How a script ended, and what it said."""

    code: int
    said: str
    errors: str


class RemoteShell:
    """Scripts on one machine; each is a connection of its own."""

    def __init__(self, target: DeployTarget) -> None:
        self.target = target

    async def run(
        self, script: str, timeout_s: float, *, given: bytes = b"", stream: AsyncIterator[bytes] | None = None
    ) -> RemoteResult:
        """Run a script of sh. `given`, or else `stream`, is its standard input. Raises SshFailed.

        What the user's shell says of itself before the script begins is left out. No secret may be in the script: it
        is part of command lines here and there.
        """
        mark = f"twd-{secrets.token_hex(8)}"
        with tempfile.TemporaryFile() as errors:  # a pipe would stay open as long as ssh keeps a connection to share
            process = await asyncio.create_subprocess_exec(
                *self._argv(f"echo; echo {mark}\n{script}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(timeout_s):
                    said = await _talk(process, given, stream)
            except TimeoutError:
                raise SshFailed(f"it took longer than {timeout_s:g} s") from None
            finally:
                await _end(process)
            errors.seek(0)
            told = errors.read(SAID_BYTES).decode("utf-8", "replace")
        return _result(process.returncode or 0, said.decode("utf-8", "replace"), told, mark)

    def _argv(self, script: str) -> list[str]:
        """Return the command line. The script is in base64, which every shell passes on as it is."""
        packed = base64.b64encode(script.encode()).decode()
        command = f"exec sh -c 'eval \"$(echo {packed} | base64 -d)\"'"
        options = [part for name, value in OPTIONS for part in ("-o", f"{name}={value}")]
        user = ["-l", self.target.user] if self.target.user else []
        return ["ssh", "-T", "-x", *options, *user, "--", self.target.host, command]


async def _talk(process: asyncio.subprocess.Process, given: bytes, stream: AsyncIterator[bytes] | None) -> bytes:
    """Send the standard input while the output is read; a reader that ends sooner is no fault of its own."""
    assert process.stdin is not None
    assert process.stdout is not None
    reading = asyncio.gather(_read(process.stdout), _write(process.stdin, given, stream))
    said, _ = await reading
    await process.wait()
    return said


async def _read(stdout: asyncio.StreamReader) -> bytes:
    said = bytearray()
    while part := await stdout.read(1 << 16):
        said += part[: SAID_BYTES - len(said)]
    return bytes(said)


async def _write(stdin: asyncio.StreamWriter, given: bytes, stream: AsyncIterator[bytes] | None) -> None:
    with suppress(ConnectionError):
        stdin.write(given)
        if stream is not None:
            async for part in stream:
                stdin.write(part)
                await stdin.drain()
    with suppress(ConnectionError):
        stdin.close()
        await stdin.wait_closed()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End ssh, and what it started as a proxy."""
    for blow in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, blow)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)


def _result(code: int, said: str, told: str, mark: str) -> RemoteResult:
    before, found, after = said.partition(f"\n{mark}\n")
    if not found:
        if code == SSH_FAILED:
            raise SshFailed(cause_of(told))
        last = (told.strip() or before.strip() or "nothing").splitlines()[-1][:200]
        raise SshFailed(f"its shell ran no command of ours (exit code {code}); it said: {last}")
    if code == SSH_FAILED:
        raise SshFailed(f"the connection broke: {cause_of(told)}")
    return RemoteResult(code, after, told)


def cause_of(told: str) -> str:
    """Return what ssh said, as a cause with what to do."""
    known = next((text for words, text in CAUSES if words in told), "")
    return known or (told.strip() or "ssh said nothing").splitlines()[-1][:300]
