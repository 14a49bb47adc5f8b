"""The pulls of one machine: starts and stops them, gives them sources as machines come and go, reports them."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from twd.kit.tasks import TaskGroup
from twd.models.stores import ModelStore
from twd.pieces.manifest import Manifest, load_manifest
from twd.pieces.names import BITMAP, manifest_of, wish_of
from twd.pieces.partial import look
from twd.pieces.signing import check_signer
from twd.settings.model import SwarmConfig
from twd.swarm.library import Library
from twd.swarm.machines import Certificates, Machine, find_file
from twd.swarm.pace import Pace
from twd.swarm.peer import Peer, Peers
from twd.swarm.puller import Hooks
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer, WantedLayers, is_here, target_in
from twd.wire.base import Event, NodeId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.swarm import PeerBanned, PullAnswered, PullFailed, PullFinished, PullProgressed, PullWanted, SharedFile

PATIENCE_S: Final = 60.0
ADMITTED_S: Final = 4.0
"""Seconds until the other machines have seen a new machine in the registry and admit it."""
AGAIN_S: Final = 0.3
RUNNING_MAX: Final = 16
log = logging.getLogger("twd.swarm")


class Teller(Protocol):
    """Publishes events for the pulls."""

    @property
    def node(self) -> NodeId:
        """This machine."""
        ...

    def said(self, event: Event) -> None:
        """Publish an event."""
        ...

    def tell_seed(self, shared: Shared) -> None:
        """Publish which units of a file are here."""
        ...


class Pulls:
    """All pulls of this machine."""

    def __init__(
        self,
        library: Library,
        peers: Peers,
        certificates: Certificates,
        settings: SwarmConfig,
        pace: Pace,
        teller: Teller,
    ) -> None:
        self._library, self._peers, self._certificates = library, peers, certificates
        self._settings, self._pace, self._teller = settings, pace, teller
        self._running: dict[str, Transfer] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._layered: list[Transfer] = []
        """The transfers of jobs that fetch layers alone."""
        self._tasks = TaskGroup("pulls", lambda name, error: log.error("%s: %r", name, error))
        self.stores: Sequence[ModelStore] = ()
        """Where a wanted file may lie on this machine already."""

    @property
    def running(self) -> list[Transfer]:
        """The running transfers."""
        return list(self._running.values())

    # -- beginning ---------------------------------------------------------------------------------

    async def begin(self, event: PullWanted, dest: Path, machines: Sequence[Machine]) -> PullAnswered:
        """Start to pull a file, unless it is here or being pulled; returns the answer to the request."""
        manifest = await self.manifest(event, machines)
        target = target_in(dest, manifest.filename)
        answer = PullAnswered(
            node=self._teller.node,
            root=manifest.name,
            file=manifest.filename,
            path=str(target),
            total_bytes=manifest.total_size,
            done=await asyncio.to_thread(is_here, target, manifest),
        )
        if not answer.done and manifest.name not in self._running:
            self.start(manifest, target, event.ranges)
            self.meet(machines)
        return answer

    async def manifest(self, event: PullWanted, machines: Sequence[Machine]) -> Manifest:
        """Return the manifest of the wanted file; raises TwdError where nobody has the file, or its signer is none of
        ours."""
        manifest = await self._manifest(event, machines)
        check_signer(manifest, self._settings.signers)
        return manifest

    async def _manifest(self, event: PullWanted, machines: Sequence[Machine]) -> Manifest:
        own = self._own(event)
        if own is not None:
            return own.manifest
        found = find_file(machines, event.root, event.file, event.hash)
        _check_one(event, found, machines)
        give_up = time.monotonic() + ADMITTED_S
        while True:
            problems = []
            for machine, one in sorted(found, key=lambda pair: not pair[1].root):  # the others must read it first
                try:
                    return await self._manifest_from(machine, one)
                except TwdError as error:
                    problems.append(str(error))
            if time.monotonic() > give_up:
                raise TwdError(FailureCode.NO_SOURCE, "; ".join(problems[:4]))
            await asyncio.sleep(AGAIN_S)

    def _own(self, event: PullWanted) -> Shared | None:
        if event.root:
            return self._library.find(event.root)
        named = (shared for shared in self._library if event.hash and shared.manifest.quick_hash == event.hash)
        return next(named, None)

    def whole(self, quick_hash: str) -> Path | None:
        """Return the whole file with this quick hash, if it is here."""
        files = (shared for shared in self._library if shared.have.complete and shared.fit())
        return next((shared.path for shared in files if shared.manifest.quick_hash == quick_hash), None)

    async def _manifest_from(self, machine: Machine, one: SharedFile) -> Manifest:
        where = f"{one.root}/manifest" if one.root else f"by-hash/{one.hash}"
        context = self._certificates.client(machine.door.certificate)
        return await self._peers.manifest(f"{machine.url}/v1/swarm/{where}", context, patient=not one.root)

    def start(self, manifest: Manifest, target: Path, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """Start or continue a transfer; raises TwdError if it cannot start."""
        if len(self._running) >= RUNNING_MAX:
            raise TwdError(FailureCode.BUSY, f"{RUNNING_MAX} files are on their way here; wait for one of them")
        hooks = Hooks(banned=lambda name, reason, unit: self._banned(manifest, name, reason, unit))
        transfer = Transfer(
            manifest,
            target,
            library=self._library,
            parallel=self._settings.parallel,
            pace=self._pace,
            hooks=hooks,
            ranges=list(ranges) or None,
            patience_s=PATIENCE_S,
        )
        transfer.stores = () if ranges else self.stores
        self._running[manifest.name] = transfer
        self._teller.tell_seed(transfer.shared)
        self._work[manifest.name] = self._tasks.start(f"pull {manifest.filename}", self._run(transfer))

    def begin_layers(
        self, manifest: Manifest, target: Path, wanted: WantedLayers, machines: Sequence[Machine]
    ) -> Transfer:
        """Make a transfer of some layers; the caller runs it."""
        hooks = Hooks(banned=lambda name, reason, unit: self._banned(manifest, name, reason, unit))
        transfer = Transfer(
            manifest,
            target,
            library=self._library,
            parallel=self._settings.parallel,
            pace=self._pace,
            hooks=hooks,
            layers=wanted,
            patience_s=PATIENCE_S,
        )
        self._layered.append(transfer)
        self._teller.tell_seed(transfer.shared)
        self.meet(machines)
        return transfer

    def end_layers(self, transfer: Transfer) -> None:
        """Give a transfer of layers no more sources. What came is shared on, also of one that failed."""
        self._layered.remove(transfer)
        kept = Shared.kept(transfer.manifest, transfer.target) if transfer.shared.closed else None
        if kept is not None:
            self._library.add(kept)
        self._teller.tell_seed(kept or transfer.shared)

    def go_on(self, folders: Iterable[Path]) -> None:
        """Continue the transfers that were running when the service ended."""
        for bitmap in [one for folder in folders for one in folder.glob(f"*{BITMAP}")]:
            target = bitmap.with_name(bitmap.name.removesuffix(BITMAP))
            found = look(target)
            if found is None or found.some or wish_of(target).exists():
                continue
            try:
                manifest = load_manifest(manifest_of(target))
                check_signer(manifest, self._settings.signers)
                self.start(manifest, target)
            except (TwdError, OSError) as error:
                log.warning("%s is left as it is: %s", target, error)

    # -- sources -------------------------------------------------------------------------------------

    def meet(self, machines: Sequence[Machine]) -> None:
        """Use the machines that have units of running transfers as sources; drop those that are gone."""
        urls = {machine.url for machine in machines}
        for transfer in (*self._running.values(), *self._layered):
            root = transfer.manifest.name
            for name in transfer.pull.names():
                if name not in urls:
                    transfer.pull.drop(name)
            for machine in machines:
                context = self._certificates.client(machine.door.certificate)
                if machine.has(root) and (context is not None or not machine.door.certificate):
                    size = transfer.manifest.total_size
                    transfer.pull.add(Peer(self._peers, machine.url, root, size, context))

    def _banned(self, manifest: Manifest, peer: str, reason: str, unit: int) -> None:
        log.warning("banned: %s", reason)
        told = PeerBanned(
            node=self._teller.node,
            root=manifest.name,
            file=manifest.filename,
            peer=peer,
            reason=reason[:1024],
            unit=unit,
        )
        self._teller.said(told)

    # -- how it goes ---------------------------------------------------------------------------------

    async def _run(self, transfer: Transfer) -> None:
        began, manifest = time.monotonic(), transfer.manifest
        try:
            await transfer.run()
        except TwdError as error:
            self._failed(manifest, error.failure)
            return
        except OSError as error:
            self._failed(manifest, Failure(code=FailureCode.INTERNAL, message=f"{transfer.target}: {error}"))
            return
        finally:
            self._running.pop(manifest.name, None)
            self._work.pop(manifest.name, None)
        counts = transfer.pull.counts
        self._teller.tell_seed(transfer.shared)
        self._teller.said(
            PullFinished(
                node=self._teller.node,
                root=manifest.name,
                file=manifest.filename,
                path=str(transfer.target),
                total_bytes=manifest.total_size,
                fetched_bytes=counts.fetched_bytes,
                wasted_bytes=counts.wasted_bytes,
                ms=round((time.monotonic() - began) * 1000),
            )
        )

    def _failed(self, manifest: Manifest, failure: Failure) -> None:
        log.warning("%s did not come: %s", manifest.filename, failure.message)
        told = PullFailed(node=self._teller.node, root=manifest.name, file=manifest.filename, failure=failure)
        self._teller.said(told)

    def progressed(self) -> Iterator[PullProgressed]:
        """Yield the progress of each transfer."""
        for root, transfer in self._running.items():
            now = transfer.pull.progress()
            yield PullProgressed(
                node=self._teller.node,
                root=root,
                file=transfer.manifest.filename,
                done_bytes=now.done_bytes,
                total_bytes=now.total_bytes,
                bytes_s=now.bytes_s,
                eta_s=None if now.eta_s == float("inf") else now.eta_s,
                sources=now.sources,
                banned=now.banned,
            )

    async def stop(self, root: str) -> None:
        """Stop one transfer; its units are kept."""
        task = self._work.get(root)
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=10.0)

    async def close(self) -> None:
        """Stop all transfers."""
        await self._tasks.close(10.0)


def _check_one(event: PullWanted, found: Sequence[tuple[Machine, SharedFile]], machines: Sequence[Machine]) -> None:
    """Raise TwdError if no machine has the file, or if its name is ambiguous."""
    name = event.file or event.root[:12] or event.hash[:12]
    if not found:
        there = sorted({one.file for machine in machines for one in machine.files})
        listed = f"; there is: {', '.join(there[:8])}" if there else "; no machine of this bus shares any"
        raise TwdError(FailureCode.NO_SOURCE, f"no machine of this bus has {name!r}{listed}")
    roots, hashes = {one.root for _, one in found if one.root}, {one.hash for _, one in found if one.hash}
    if len(roots) > 1 or len(hashes) > 1:
        listed = ", ".join(sorted(f"{one.root[:12] or one.hash[:12]} at {machine.node}" for machine, one in found))
        text = f"several files are called {name!r}: {listed}; name the one that is meant by its root"
        raise TwdError(FailureCode.BAD_REQUEST, text, "file")
