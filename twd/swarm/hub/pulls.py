"""The pulls of one machine from hubs: it shares what came, and reads the hub itself only while it holds the claim."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.kit.tasks import TaskGroup, cancel
from twd.models.client import HubClient
from twd.models.environment import HubEnvironment
from twd.models.hub import client_for, found_on_hub
from twd.models.remote_file import RemoteFile
from twd.models.spec import Spec, parse_spec
from twd.models.stores import ModelStore
from twd.pieces.manifest import Manifest, check_piece_size
from twd.pieces.names import wish_of
from twd.pieces.source import SourceError, SourceTrouble
from twd.settings.model import SwarmConfig
from twd.swarm.first_answer import LATE_S
from twd.swarm.hub.claim import HubClaim
from twd.swarm.hub.transfer import Elsewhere, HubTransfer, is_here_already
from twd.swarm.hub.wishes import HubWish, read_wishes, write_wish
from twd.swarm.library import Library
from twd.swarm.machines import Certificates, Machine
from twd.swarm.manifests import ADMITTED_S, AGAIN_S
from twd.swarm.pace import Pace
from twd.swarm.peer import HubPeer, Peers
from twd.swarm.puller import Hooks
from twd.swarm.pulls import Teller
from twd.swarm.seeder import ROOT
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.swarm import HubFacts, PeerBanned, PullAnswered, PullFailed, PullFinished, PullProgressed, PullWanted

AT_ONCE: Final = 2
"""So many files of this machine are on their way at once; the others wait."""
REST_S: Final = 30.0
"""After a hub refused a file, this machine lets the others try for so many seconds."""
LAST_NEWS_S: Final = 1.0
"""A reader keeps its claim for so many seconds after the last unit, until the others know that it has it."""
FILES_MAX: Final = 512
log = logging.getLogger("twd.swarm")


@dataclass(eq=False)
class _Job:
    transfer: HubTransfer
    client: HubClient
    claim: HubClaim
    began: float
    rests_until: float = 0.0
    opening: bool = False
    """The hub is being asked for the first bytes."""

    @property
    def file(self) -> RemoteFile:
        return self.transfer.remote


class HubPulls:
    """All pulls from hubs of this machine, by SHA-256."""

    def __init__(
        self,
        library: Library,
        peers: Peers,
        certificates: Certificates,
        settings: SwarmConfig,
        pace: Pace,
        teller: Teller,
        claim: Callable[[str], HubClaim],
    ) -> None:
        self._library, self._peers, self._certificates = library, peers, certificates
        self._settings, self._pace, self._teller, self._claim = settings, pace, teller, claim
        self._running: dict[str, _Job] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._tasks = TaskGroup("hub pulls", lambda name, error: log.error("%s: %r", name, error))
        self._beginning, self._slots = asyncio.Lock(), asyncio.Semaphore(AT_ONCE)
        self._machines: Sequence[Machine] = ()
        self.environment = HubEnvironment()
        self.stores: Sequence[ModelStore] = ()

    # -- beginning ---------------------------------------------------------------------------------

    async def begin(self, event: PullWanted, folder: Path, machines: Sequence[Machine]) -> PullAnswered:
        """Start to pull all files of a SPEC that are not here; returns the answer to the request."""
        if not await asyncio.to_thread(folder.is_dir):
            raise TwdError(FailureCode.MODEL_NOT_FOUND, f"there is no folder {folder}; name another --dir")
        spec = parse_spec(event.spec, event.revision, self.environment.hosts)
        async with self._beginning:
            async with found_on_hub(spec, self.environment) as found:
                files = found.files
            coming = [file for file in files if not await self._is_here(folder / file.name, file)]
            for file in coming:
                write_wish(folder / file.name, event)
                self._start(spec, file, folder / file.name)
        self.meet(machines)
        await self.turn()
        first = (coming or files)[0]
        return PullAnswered(
            node=self._teller.node,
            root=first.sha256,
            file=first.name,
            path=str(folder / files[0].name),
            total_bytes=first.size,
            done=not coming,
            more=[file.sha256 for file in coming[1:]],
        )

    def go_on(self, folders: Iterable[Path]) -> None:
        """Continue the pulls that were running when the service ended."""
        wishes = {(path.parent, wish) for folder in folders for path, wish in read_wishes(folder)}
        for folder, wish in sorted(wishes):
            self._tasks.start(f"go on with {wish.spec}", self._again(folder, wish))

    async def _again(self, folder: Path, wish: HubWish) -> None:
        event = PullWanted(node=self._teller.node, spec=wish.spec, revision=wish.revision)
        try:
            await self.begin(event, folder, self._machines)
        except TwdError as error:
            log.warning("%s does not go on: %s", wish.spec, error)

    async def _is_here(self, target: Path, file: RemoteFile) -> bool:
        return await asyncio.to_thread(is_here_already, target, file)

    def _start(self, spec: Spec, file: RemoteFile, target: Path) -> None:
        if file.sha256 in self._running:
            return
        if len(self._running) >= FILES_MAX:
            raise TwdError(FailureCode.BUSY, f"{FILES_MAX} files are wanted here already; wait for one of them")
        client = client_for(spec, self.environment)
        transfer = HubTransfer(
            client,
            file,
            target,
            parallel=self._settings.parallel,
            piece_bytes=check_piece_size(self._settings.piece_size_mib),
            pace=self._pace,
            hooks=Hooks(
                banned=lambda name, reason, unit: self._banned(file, name, reason, unit),
                trouble=lambda name, text: log.info("%s: %s", file.name, text),
            ),
            stores=self.stores,
            library=self._library,
        )
        job = _Job(transfer, client, self._claim(file.sha256), time.monotonic())
        transfer.when_begun = lambda: self._begun(job)
        transfer.elsewhere = lambda: self._elsewhere(file)
        self._running[file.sha256] = job
        self._work[file.sha256] = self._tasks.start(f"pull {file.name}", self._run(job))

    def _begun(self, job: _Job) -> None:
        self.meet(self._machines)
        self._tasks.start(f"claim {job.file.name}", self._turn(job))

    async def _elsewhere(self, file: RemoteFile) -> Elsewhere:
        """Return what the machines of the bus have of a file."""
        holders = [machine for machine in self._machines if file.sha256 in machine.hub.files]
        give_up = time.monotonic() + ADMITTED_S
        asked = list(holders)
        while asked and time.monotonic() < give_up:
            machine = asked.pop(0)
            try:
                async with asyncio.timeout(2 * LATE_S):
                    known = await self._manifest_from(machine, file)
            except TimeoutError:
                continue
            except SourceError as error:
                if error.trouble is SourceTrouble.AWAY:  # perhaps it does not know this machine yet
                    asked.append(machine)
                    await asyncio.sleep(AGAIN_S)
                continue
            except TwdError:
                continue
            if (known.sha256, known.total_size) == (file.sha256, file.size) and known.root:
                return Elsewhere(True, known)
        return Elsewhere(bool(holders))

    async def _manifest_from(self, machine: Machine, file: RemoteFile) -> Manifest:
        context = self._certificates.client(machine.door.certificate)
        return await self._peers.manifest(f"{machine.url}{ROOT}/{file.sha256}/manifest", context)

    # -- sources -------------------------------------------------------------------------------------

    def facts(self) -> HubFacts:
        """Return which files of hubs are here, whole or in part."""
        known = [one.manifest.sha256 for one in self._library if one.manifest.sha256]
        return HubFacts(files=known[:FILES_MAX], endpoint=self.environment.endpoint, token=bool(self.environment.token))

    def meet(self, machines: Sequence[Machine]) -> None:
        """Use the machines that have units of running pulls as sources; drop those that are gone."""
        self._machines = machines
        urls = {machine.url for machine in machines}
        for sha256, job in self._running.items():
            if not job.transfer.begun:
                continue
            pull = job.transfer.pull
            for name in pull.names():
                if "://" in name and name not in urls:
                    pull.drop(name)
            for machine in machines:
                context = self._certificates.client(machine.door.certificate)
                if sha256 in machine.hub.files and (context is not None or not machine.door.certificate):
                    pull.add(HubPeer(self._peers, machine.url, sha256, job.file.size, context))

    async def turn(self) -> None:
        """Take or renew the claims; who holds one reads from the hub."""
        for job in list(self._running.values()):
            await self._turn(job)

    async def _turn(self, job: _Job) -> None:
        transfer = job.transfer
        if not transfer.begun or job.opening or time.monotonic() < job.rests_until:
            return
        if not transfer.pull.needs_hub():
            if not await job.claim.keep():
                transfer.leave_hub()
        elif job.claim.held and not transfer.uses_hub:
            await self._refused(job, transfer.pull.nobody())
        elif await job.claim.turn():
            if not transfer.uses_hub:
                job.opening = True
                self._tasks.start(f"use hub for {job.file.name}", self._use_hub(job))
        else:
            transfer.leave_hub()

    async def _use_hub(self, job: _Job) -> None:
        try:
            await job.transfer.use_hub()
            log.info("%s is read from %s here", job.file.name, job.client.host)
        except TwdError as error:
            await self._refused(job, error)
        finally:
            job.opening = False

    async def _refused(self, job: _Job, error: TwdError) -> None:
        """The hub does not give the file to this machine: let others try, and wait for them if there are any."""
        log.warning("%s: %s", job.file.name, error)
        job.rests_until = time.monotonic() + REST_S
        await job.claim.release()
        if not job.transfer.pull.names():
            job.transfer.pull.give_up(error)

    # -- how it goes ---------------------------------------------------------------------------------

    async def _run(self, job: _Job) -> None:
        try:
            failure = await self._transfer(job)
            self._tell_end(job, failure)
            if failure is None:
                await job.claim.keep()
                await asyncio.sleep(LAST_NEWS_S)
        finally:
            await job.claim.release()

    async def _transfer(self, job: _Job) -> Failure | None:
        try:
            async with self._slots:
                await job.transfer.run()
        except TwdError as error:
            return error.failure
        except OSError as error:
            return Failure(code=FailureCode.INTERNAL, message=f"{job.transfer.target}: {error}")
        finally:
            self._running.pop(job.file.sha256, None)
            self._work.pop(job.file.sha256, None)
            await job.client.close()
        return None

    def _tell_end(self, job: _Job, failure: Failure | None) -> None:
        if failure is None:
            wish_of(job.transfer.target).unlink(missing_ok=True)
            self._teller.said(self._finished(job))
        else:
            log.warning("%s did not come: %s", job.file.name, failure.message)
            told = PullFailed(node=self._teller.node, root=job.file.sha256, file=job.file.name, failure=failure)
            self._teller.said(told)

    def _finished(self, job: _Job) -> PullFinished:
        counts = job.transfer.pull.counts
        return PullFinished(
            node=self._teller.node,
            root=job.file.sha256,
            file=job.file.name,
            path=str(job.transfer.target),
            total_bytes=job.file.size,
            fetched_bytes=counts.fetched_bytes,
            wasted_bytes=counts.wasted_bytes,
            ms=round((time.monotonic() - job.began) * 1000),
        )

    def _banned(self, file: RemoteFile, peer: str, reason: str, unit: int) -> None:
        log.warning("banned: %s", reason)
        told = PeerBanned(
            node=self._teller.node, root=file.sha256, file=file.name, peer=peer, reason=reason[:1024], unit=unit
        )
        self._teller.said(told)

    def progressed(self) -> Iterator[PullProgressed]:
        """Yield the progress of each pull."""
        for sha256, job in self._running.items():
            now = job.transfer.pull.progress()
            yield PullProgressed(
                node=self._teller.node,
                root=sha256,
                file=job.file.name,
                done_bytes=now.done_bytes,
                total_bytes=now.total_bytes,
                bytes_s=now.bytes_s,
                eta_s=None if now.eta_s == float("inf") else now.eta_s,
                sources=now.sources,
                banned=now.banned,
            )

    async def stop(self, sha256: str) -> None:
        """Stop one pull; its units are kept."""
        task, job = self._work.get(sha256), self._running.get(sha256)
        if task is not None and job is not None:
            wish_of(job.transfer.target).unlink(missing_ok=True)
            await cancel(task, 10.0)

    async def close(self) -> None:
        """Stop all pulls."""
        await self._tasks.close(10.0)
