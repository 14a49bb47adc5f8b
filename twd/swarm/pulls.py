"""The pulls of one machine: starts and stops them, gives them sources as machines come and go, reports them."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from twd.kit.tasks import TaskGroup
from twd.models.stores import ModelStore
from twd.pieces.layers import Ranges, check_together
from twd.pieces.manifest import Manifest, Shard, load_manifest
from twd.pieces.names import BITMAP, manifest_of, part_of, wish_of
from twd.pieces.partial import ROOM_LEFT, NoRoomForFile, look
from twd.pieces.parts import PartFolder
from twd.pieces.signing import check_signer
from twd.process.platform import disk_bytes
from twd.settings.model import SwarmConfig
from twd.swarm.first_answer import LATE_S, AskedMachine, first_answer
from twd.swarm.layer_transfer import LayerTransfer
from twd.swarm.library import Library
from twd.swarm.machines import Certificates, Machine, find_file
from twd.swarm.pace import Pace
from twd.swarm.peer import Peer, Peers
from twd.swarm.puller import Hooks
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer, is_here, target_in
from twd.wire.base import Event, NodeId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.swarm import (
    LayerRange,
    PeerBanned,
    PullAnswered,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullWanted,
    SharedFile,
)

PATIENCE_S: Final = 60.0
ADMITTED_S: Final = 4.0
"""Seconds until the other machines have seen a new machine in the registry and admit it."""
AGAIN_S: Final = 0.3
READ_LATE_S: Final = 20.0
"""After so many seconds without the manifest of a file that must be read for it, another machine reads it, too."""
RUNNING_MAX: Final = 1024
AT_ONCE: Final = 16
"""So many files are on their way here at once; the others wait."""
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
        self._turns, self._machines = asyncio.Semaphore(AT_ONCE), list[Machine]()
        self._active: list[Transfer] = []
        """Those whose turn has come."""
        self._layered: list[Transfer] = []
        """The transfers of jobs that fetch layers alone."""
        self._part_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One lock for each root: jobs that write the same partial files take turns."""
        self._tasks = TaskGroup("pulls", lambda name, error: log.error("%s: %r", name, error))
        self.parts: PartFolder | None = None
        """Where layers that came before are kept."""
        self.stores: Sequence[ModelStore] = ()
        """Where a wanted file may lie on this machine already."""

    @property
    def running(self) -> list[Transfer]:
        """The running transfers."""
        return list(self._running.values())

    # -- beginning ---------------------------------------------------------------------------------

    async def begin(self, event: PullWanted, dest: Path, machines: Sequence[Machine]) -> PullAnswered:
        """Start to pull the files of a model that are not here; returns the answer to the request."""
        manifests = await self.manifests(event, machines)
        coming = await asyncio.to_thread(_lacking, dest, manifests)
        for manifest in coming:
            if manifest.name not in self._running:
                self.start(manifest, target_in(dest, manifest.filename), event.ranges)
        self.meet(machines)
        first = (coming or manifests)[0]
        return PullAnswered(
            node=self._teller.node,
            root=first.name,
            file=first.filename,
            path=str(target_in(dest, manifests[0].filename)),
            total_bytes=first.total_size,
            done=not coming,
            more=[one.name for one in coming[1:]],
        )

    async def manifests(self, event: PullWanted, machines: Sequence[Machine]) -> list[Manifest]:
        """Return the manifests of the wanted model's files; raises TwdError where nobody has one, or its signer is none
        of ours. A wish by root is for that file alone, unless it is for layers or headers."""
        first, giver = await self._first(event, machines)
        several = first.model_hash and (event.layers is not None or event.headers or not event.root)
        others = [await self._other(shard, giver, machines) for shard in (first.shards[1:] if several else ())]
        found = [first, *others]
        if others:
            check_together(found)
        for manifest in found:
            check_signer(manifest, self._settings.signers)
        return found

    async def _other(self, shard: Shard, giver: Sequence[Machine], machines: Sequence[Machine]) -> Manifest:
        """Return the manifest of one more file of a split model; who gave the first one has made them all."""
        own = self._library.find(shard.root)
        if own is not None:
            return own.manifest
        wanted = SharedFile(file=shard.filename, size=shard.size, root=shard.root)
        holders = (*giver, *(one for one in machines if one.has(shard.root) and one not in giver))
        try:
            found, _ = await first_answer(self._asked(machine, wanted) for machine in holders)
        except TwdError as error:
            why = str(error) or "no machine of this bus shares it"
            text = f"the manifest of {shard.filename} does not come: {why}"
            raise TwdError(FailureCode.NO_SOURCE, text) from None
        return found

    async def _first(self, event: PullWanted, machines: Sequence[Machine]) -> tuple[Manifest, Sequence[Machine]]:
        """Return the manifest of the wanted file, and which machine gave it."""
        own = self._own(event)
        if own is not None:
            return own.manifest, ()
        found = find_file(machines, event.root, event.file, event.hash)
        _check_one(event, found, machines)
        give_up = time.monotonic() + ADMITTED_S
        while True:
            try:
                order = sorted(found, key=lambda pair: not pair[1].root)  # the others must read it first
                manifest, giver = await first_answer(self._asked(machine, one) for machine, one in order)
                return manifest, [giver]
            except TwdError:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(AGAIN_S)

    def _own(self, event: PullWanted) -> Shared | None:
        if event.root:
            return self._library.find(event.root)
        named = (shared for shared in self._library if event.hash and shared.manifest.hash == event.hash)
        return next(named, None)

    def whole(self, quick_hash: str) -> Path | None:
        """Return the first file of the model with this quick hash, if all of its files are here."""
        firsts = (shared for shared in self._library if shared.manifest.hash == quick_hash)
        return next((shared.path for shared in firsts if self._library.is_whole(shared)), None)

    def _asked(self, machine: Machine, one: SharedFile) -> AskedMachine[tuple[Manifest, Machine]]:
        """One machine to ask for a manifest; who must read the file first may take long."""

        async def ask() -> tuple[Manifest, Machine]:
            return await self._manifest_from(machine, one), machine

        return AskedMachine(ask, LATE_S if one.root else READ_LATE_S)

    async def _manifest_from(self, machine: Machine, one: SharedFile) -> Manifest:
        where = f"{one.root}/manifest" if one.root else f"by-hash/{one.hash}"
        context = self._certificates.client(machine.door.certificate)
        found = await self._peers.manifest(f"{machine.url}/v1/swarm/{where}", context, patient=not one.root)
        if (one.root and found.name != one.root) or (not one.root and found.hash != one.hash):
            text = f"{machine.node} gave the manifest of another file than {one.file}"
            raise TwdError(FailureCode.WRONG_BYTES, text)
        return found

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
        transfer.kept = self.parts.place(manifest) if self.parts is not None else None
        self._running[manifest.name] = transfer
        self._teller.tell_seed(transfer.shared)
        self._work[manifest.name] = self._tasks.start(f"pull {manifest.filename}", self._run(transfer))

    def layers(
        self,
        manifests: Sequence[Manifest],
        layers: LayerRange | None,
        parts: PartFolder,
        machines: Callable[[], Sequence[Machine]],
    ) -> LayerTransfer:
        """Make a transfer of some layers, or of the headers alone; the caller runs it."""

        def begin(manifest: Manifest, target: Path, ranges: Ranges) -> Transfer:
            return self._begin_part(manifest, target, ranges, machines())

        turn = self._part_turns.setdefault(manifests[0].name, asyncio.Lock())
        return LayerTransfer(manifests, layers, parts, begin, self._end_part, turn)

    def _begin_part(self, manifest: Manifest, target: Path, ranges: Ranges, machines: Sequence[Machine]) -> Transfer:
        hooks = Hooks(banned=lambda name, reason, unit: self._banned(manifest, name, reason, unit))
        transfer = Transfer(
            manifest,
            target,
            library=self._library,
            parallel=self._settings.parallel,
            pace=self._pace,
            hooks=hooks,
            ranges=ranges,
            patience_s=PATIENCE_S,
        )
        self._layered.append(transfer)
        self._teller.tell_seed(transfer.shared)
        self.meet(machines)
        return transfer

    def _end_part(self, transfer: Transfer) -> None:
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
        self._machines = list(machines)
        urls = {machine.url for machine in machines}
        for transfer in (*self._active, *self._layered):
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
            async with self._turns:
                self._active.append(transfer)
                self.meet(self._machines)
                await transfer.run()
        except TwdError as error:
            self._failed(manifest, error.failure)
            return
        except OSError as error:
            self._failed(manifest, Failure(code=FailureCode.INTERNAL, message=f"{transfer.target}: {error}"))
            return
        finally:
            self._active = [one for one in self._active if one is not transfer]
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


def _lacking(dest: Path, manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return the files that are not there yet; raises TwdError where they cannot come."""
    if len(manifests) > 1 and not dest.is_dir():
        text = f"{manifests[0].filename} has {len(manifests)} files; name a folder that is there instead of {dest}"
        raise TwdError(FailureCode.BAD_REQUEST, text, "dest")
    found = [one for one in manifests if not is_here(target_in(dest, one.filename), one)]
    needed, free = sum(one.total_size for one in found), shutil.disk_usage(dest if dest.is_dir() else dest.parent).free
    if len(found) > 1 and needed > free + sum(_held(target_in(dest, one.filename)) for one in found) - ROOM_LEFT:
        raise NoRoomForFile(f"{len(found)} files need {needed} bytes, and {dest} has {free} free; make room there")
    return found


def _held(target: Path) -> int:
    part = part_of(target)
    return disk_bytes(part.stat()) if part.exists() else 0


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
