"""Copies a model to machines that are reached by ssh: by rsync, by scp, or by a pull there from a seeder here."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from twd.cli.distribute.targets import (
    Method,
    SshProbe,
    SshTarget,
    choose,
    probe_script,
    read_probe,
    rsync_argv,
    scp_argv,
    ssh_argv,
    swarm_script,
)
from twd.cli.swarm.transfer_bar import hashing_bar
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.net.addresses import bracketed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twd.pieces.manifest import Manifest

PROBE_S: Final = 30.0
AT_ONCE: Final = 4
SAID_MAX: Final = 400
NO_CAUSE: Final = ("rsync error:", "scp: failed to upload")
RSYNC_CODES: Final = {
    3: "the folder is not there, or cannot be written",
    11: "reading or writing failed; is the disk full?",
    12: "the two rsyncs do not understand each other",
    23: "not all of the file came over",
    30: "no answer in time",
}


class Outcome(NamedTuple):
    """What became of one target; `problem` is empty where the file is there."""

    target: str
    how: str
    problem: str = ""


class OverSsh:
    """The files of one model, and how they are sent."""

    def __init__(
        self, files: Sequence[Path], method: Method, token: str, options: Sequence[str], piece_mib: int
    ) -> None:
        """`token`: for pulls from the seeder here; empty: one is drawn. `options`: more options of ssh."""
        self._files, self._method, self._options, self._piece_mib = files, method, options, piece_mib
        self._token = token or secrets.token_urlsafe(24)
        self._size = sum(file.stat().st_size for file in files)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._rsync = shutil.which("rsync") is not None

    async def send(self, targets: Sequence[SshTarget]) -> list[Outcome]:
        """Send them to all targets; no failure of one ends the others."""
        probes = await asyncio.gather(*(self._probe(target) for target in targets))
        plans = [self._plan(target, probe) for target, probe in zip(targets, probes, strict=True)]
        if not any(isinstance(plan, str) and plan == "swarm" for plan in plans):
            return await self._all(targets, probes, plans, None, 0)
        async with self._seeding() as (manifest, port):
            return await self._all(targets, probes, plans, manifest, port)

    async def _probe(self, target: SshTarget) -> SshProbe | Outcome:
        code, said = await run(ssh_argv(target, self._options, probe_script()), timeout_s=PROBE_S)
        return Outcome(str(target), "ssh", said or f"exit code {code}") if code else read_probe(said)

    def _plan(self, target: SshTarget, probe: SshProbe | Outcome) -> str | Outcome:
        if isinstance(probe, Outcome):
            return probe
        try:
            return choose(self._method, self._size, probe, self._rsync)
        except CommandError as error:
            return Outcome(str(target), "swarm", str(error))

    async def _manifests(self) -> "list[Manifest]":
        """One for each file of the model."""
        from twd.pieces.making import manifests_for
        from twd.pieces.manifest import check_piece_size

        with hashing_bar(self._files[0].name) as progress:
            size = check_piece_size(self._piece_mib)
            return await asyncio.to_thread(manifests_for, self._files[0], size, progress=progress)

    @asynccontextmanager
    async def _seeding(self) -> "AsyncIterator[tuple[Manifest, int]]":
        """Give the model to whoever has the token, on a free port; yields the manifest of its first file."""
        from twd.swarm.door import Door
        from twd.swarm.library import Library
        from twd.swarm.seeder import Seeder
        from twd.swarm.shared import Shared

        made = await self._manifests()
        library = Library()
        for manifest, file in zip(made, self._files, strict=True):
            library.add(Shared.whole(manifest, file))
        seeder = Seeder(library)
        try:
            yield made[0], await seeder.listen("0.0.0.0", 0, Door(self._token))
        finally:
            await seeder.close()
            library.close()

    async def _all(
        self,
        targets: Sequence[SshTarget],
        probes: Sequence[SshProbe | Outcome],
        plans: Sequence[str | Outcome],
        manifest: "Manifest | None",
        port: int,
    ) -> list[Outcome]:
        async def one(target: SshTarget, probe: SshProbe | Outcome, plan: str | Outcome) -> Outcome:
            if isinstance(plan, Outcome) or isinstance(probe, Outcome):
                return plan if isinstance(plan, Outcome) else Outcome(str(target), "ssh")
            root = manifest.name if manifest is not None else ""
            async with self._turns:
                return await self._send(target, plan, f"http://{bracketed(probe.sees_us_as)}:{port}", root)

        work = (one(*each) for each in zip(targets, probes, plans, strict=True))
        return list(await asyncio.gather(*work))

    async def _send(self, target: SshTarget, how: str, url: str, root: str) -> Outcome:
        began = time.monotonic()
        told = f"{self._token}\n".encode() if how == "swarm" else b""
        code, said = await run(self._argv(target, how, url, root), told)
        if code:
            return Outcome(str(target), how, said.replace(self._token, "…") or f"exit code {code}")
        return Outcome(str(target), f"{how}, {time.monotonic() - began:.0f} s")

    def lines(self, targets: Sequence[SshTarget]) -> list[str]:
        """Return what would be run, as far as that is known without asking the machines; it holds no token."""
        import shlex

        every = SshProbe(has_twd=True, has_rsync=True, sees_us_as="THIS-MACHINE")
        how = choose(self._method, self._size, every, self._rsync)
        return [shlex.join(self._argv(target, how, "http://THIS-MACHINE:PORT", "ROOT")) for target in targets]

    def _argv(self, target: SshTarget, how: str, url: str, root: str) -> list[str]:
        if how == "swarm":
            return ssh_argv(target, self._options, swarm_script(target, url, root))
        make = rsync_argv if how == "rsync" else scp_argv
        return make([str(file) for file in self._files], target, self._options)


async def run(argv: Sequence[str], told: bytes = b"", timeout_s: float | None = None) -> tuple[int, str]:
    """Run a program; returns its exit code, and its output, or the last line of its complaints where it failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise CommandError(ExitCode.CANNOT_START, f"{argv[0]} cannot be started: {error.strerror}") from None
    try:
        out, problems = await asyncio.wait_for(process.communicate(told), timeout_s)
    except TimeoutError:
        return 1, f"no answer within {timeout_s:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if not process.returncode:
        return 0, out.decode("utf-8", "replace")
    return process.returncode or 1, _complaint(problems) or _complaint(out) or _meaning(argv, process.returncode)


def _meaning(argv: Sequence[str], code: int | None) -> str:
    """Return what an exit code of rsync means: where the other side ends at once, its last words may be lost."""
    known = RSYNC_CODES.get(code or 0, "") if "rsync" in argv[0] else ""
    return f"{known} (exit code {code} of rsync)" if known else ""


def _complaint(said: bytes) -> str:
    """Return the last line that says what is wrong; the very last one of rsync and scp only says that something is."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(NO_CAUSE)]
    return (telling or lines or [""])[-1][:SAID_MAX]


def show(outcomes: Sequence[Outcome]) -> ExitCode:
    """Print what became of each target; returns the exit code."""
    for one in outcomes:
        click.echo(f"{one.target}: {one.problem or one.how}", err=bool(one.problem))
    return ExitCode.UNHEALTHY if any(one.problem for one in outcomes) else ExitCode.OK
