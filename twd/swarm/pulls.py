"""The pulls of one machine: starts and stops them, gives them sources as machines come and go, reports them."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from twd.kit.tasks import TaskGroup, cancel
from twd.models.stores import ModelStore
from twd.pieces.layers import Ranges
from twd.pieces.manifest import Manifest, load_manifest
from twd.pieces.names import BITMAP, manifest_of, part_of, wish_of
from twd.pieces.partial import ROOM_LEFT, NoRoomForFile, look
from twd.pieces.parts import PartFolder
from twd.pieces.signing import check_signer
from twd.process.platform import disk_bytes
from twd.settings.model import SwarmConfig
from twd.swarm.layer_transfer import LayerTransfer
from twd.swarm.library import Library
from twd.swarm.machines import Certificates, Machine
from twd.swarm.manifests import ManifestFinder
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
)

PATIENCE_S: Final = 60.0
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
        self.manifests = ManifestFinder(library, peers, certificates, settings.signers)
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
        manifests = await self.manifests.find(event, machines)
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

    def whole(self, quick_hash: str) -> Path | None:
        """Return the first file of the model with this quick hash, if all of its files are here."""
        firsts = (shared for shared in self._library if shared.manifest.hash == quick_hash)
        return next((shared.path for shared in firsts if self._library.is_whole(shared)), None)

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
            await cancel(task, 10.0)

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
