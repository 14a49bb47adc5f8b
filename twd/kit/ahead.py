"""One process of ours that is started before anybody needs it: it has imported everything, and waits for its command
line. Half of what the start of a process takes is imports; where one is lost, somebody waits for the next."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from twd.kit import platform

OURS: Final = (sys.executable, "-P", "-m", "twd")
"""How command lines begin that such a process can take over."""
END_S: Final = 2.0
_log = logging.getLogger("twd.kit.ahead")


class Start(msgspec.Struct, frozen=True):
    """The one line that it waits for; where its input ends before, it ends too."""

    arguments: list[str]
    log: str


class Ahead:
    """Keeps one such process waiting, whenever it is told to."""

    def __init__(self, service: str, base: Mapping[str, str] = os.environ) -> None:
        """`base`: the variables that all of them see."""
        self._base = base
        self._argv = (*OURS[:-1], "twd.cli.ahead", service)
        self._process: asyncio.subprocess.Process | None = None
        self._environment: Mapping[str, str] = {}
        self._lifeline = platform.Lifeline()
        self._changing = asyncio.Lock()
        self._closed = False

    @property
    def pid(self) -> int:
        """The process that waits; 0 while none does."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def prepare(self, environment: Mapping[str, str]) -> None:
        """Have one waiting that sees these variables besides."""
        async with self._changing:
            if self.pid or self._closed:
                return
            self._environment = dict(environment)
            try:
                self._process = await self._create()
            except OSError as error:
                _log.warning("no process waits for a start: %s", error)

    async def _create(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**self._base, **self._lifeline.environment, **self._environment},
            pass_fds=self._lifeline.inherited,
            **platform.spawn_options(),
        )

    def take(
        self, argv: tuple[str, ...], environment: Mapping[str, str], log: Path
    ) -> asyncio.subprocess.Process | None:
        """The process that waits, told what to do; None where it cannot do this, or none waits."""
        process = self._process
        if process is None or not self.pid or environment != self._environment or argv[: len(OURS)] != OURS:
            return None
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(Start(list(argv[len(OURS) :]), str(log))) + b"\n")
        process.stdin.close()
        self._process = None
        return process

    async def close(self) -> None:
        """No more of them."""
        self._closed = True
        await self.let_go()
        self._lifeline.close()

    async def let_go(self) -> None:
        """Nobody will need the one that waits."""
        async with self._changing:
            process, self._process = self._process, None
            if process is not None and process.returncode is None:
                await self._end(process)

    @staticmethod
    async def _end(process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            platform.kill_group(process.pid)
            await process.wait()
