"""One file from a hub to its final name, which it gets when the SHA-256 of the whole is right."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from twd.kit.progress import Share, unheard
from twd.models.client import HubClient
from twd.models.remote_file import CONNECTIONS, MAGIC, HubSource, RemoteFile, check_magic
from twd.models.reuse import take_local, take_units, whole
from twd.models.stores import ModelStore, whole_copies
from twd.pieces.checks import Checks
from twd.pieces.growing import GrowingManifest
from twd.pieces.making import PIECE_BYTES, known_manifest, manifest_for
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import check_name, manifest_of
from twd.pieces.partial import PartialFile
from twd.pieces.tree import UNIT
from twd.swarm.copying import copied
from twd.swarm.hub.guesses import Guesses
from twd.swarm.library import Library
from twd.swarm.pace import Pace
from twd.swarm.puller import Counts, Hooks, Progress, Pull
from twd.swarm.shared import Shared
from twd.wire.failures import FailureCode, TwdError

PATIENCE_S: Final = 120.0
"""Seconds that a pull waits for a hub that is busy or away."""
HASH_S: Final = 0.25
"""Seconds between two looks whether more can be hashed."""
SHARED_PATIENCE_S: Final = 900.0
"""The same where other machines may read it from the hub first."""


def is_here_already(target: Path, file: RemoteFile, progress: Share = unheard) -> bool:
    """Return whether the file is there with the hub's SHA-256; raises if another file has its name. May read it all."""
    if target.is_dir():
        raise TwdError(FailureCode.BAD_REQUEST, f"{target} is a folder; move it away, or name another --dir")
    if not target.exists():
        return False
    if target.stat().st_size == file.size:
        known = known_manifest(target)
        if known is None or not known.sha256:
            known = manifest_for(target, progress=progress)
        if known.sha256 == file.sha256:
            return True
    text = f"{target} is there and is another file than {file.origin}; move it away, or name another --dir"
    raise TwdError(FailureCode.BAD_REQUEST, text)


class HubPull(Pull):
    """A pull whose file is checked as a whole: by the hub's SHA-256, in the pass that makes its manifest."""

    def __init__(
        self,
        file: PartialFile,
        remote: RemoteFile,
        piece_bytes: int,
        *,
        parallel: int,
        hooks: Hooks | None = None,
        pace: Pace | None = None,
        shared: Shared | None = None,
        alone: bool = True,
    ) -> None:
        """`alone`: no other machine has the file, so that the pull ends when the hub refuses it."""
        super().__init__(
            file,
            shared=shared,
            sha256=remote.sha256,
            parallel=parallel,
            hooks=hooks,
            pace=pace,
            patience_s=PATIENCE_S if alone else SHARED_PATIENCE_S,
        )
        self._alone, self._piece_bytes, self._guessed = alone, piece_bytes, dict[int, str]()
        self.growing = self._growing()
        self.manifest: Manifest | None = None
        self.stopped = threading.Event()
        """Set where nobody waits any more; the check ends then."""

    def drop(self, name: str) -> None:
        """Remove a source."""
        super().drop(name)
        if self._alone and not self._sources and self.sampler.left:
            self.give_up(self.nobody())

    def needs_hub(self) -> bool:
        """Return whether a unit is missing that no other machine has."""
        return self.sampler.needs_hub(asyncio.get_running_loop().time())

    def nobody(self) -> TwdError:
        """Return the error for a file that no source gives, with what the sources said."""
        return self._nobody()

    def give_up(self, error: TwdError) -> None:
        """End the pull with an error."""
        self._fatal = self._fatal or error
        self._stirred.set()

    def _growing(self) -> GrowingManifest:
        return GrowingManifest(self.file.path, self.file.checks.size, self._piece_bytes)

    async def run(self) -> None:
        """Run until all is there; what came is hashed meanwhile, so that little is left to do in the end."""
        self._tasks.start("hash what came", self._hash_along(self.growing))
        try:
            await super().run()
        finally:
            await asyncio.to_thread(self.growing.close)

    def guess(self, units: Mapping[int, str]) -> None:
        """Treat these units as right until the whole file is checked. `units`: the store from which each was copied."""
        self._guessed = dict(units)
        self.sampler.skip(self._guessed)

    async def _until_there(self) -> None:
        await super()._until_there()
        if not self._guessed:
            return
        guessed, right = self._guessed, await asyncio.to_thread(self.holds_promise)
        self._guessed = {}
        self.sampler.want(guessed)
        if right:
            for index, store in guessed.items():
                self.came_early(index, store)
            return
        self.growing.close()
        self.growing = self._growing()
        self._tasks.start("hash what came", self._hash_along(self.growing))  # from the begin: it read wrong guesses
        await super()._until_there()

    async def _hash_along(self, growing: GrowingManifest) -> None:
        units = 0
        while growing is self.growing and units < len(self.file.checks):
            while units in self.file.have or units in self._guessed:
                units += 1
            end = min(units * UNIT, self.file.checks.size)
            if growing.worth(end):
                await asyncio.to_thread(growing.advance, end, self._go_on)
            await asyncio.sleep(HASH_S)

    def holds_promise(self) -> bool:
        """Return whether the whole has the SHA-256 that the hub promised; reads what was not read yet."""
        self.growing.advance(self.file.checks.size, self._go_on)
        if self.growing.sha256 != self._sha256:
            return False
        for index in self._guessed:
            self.file.checks.digests[index] = None  # what others told of it does not matter any more
            self.file.take_written(index, define=True)
        layer = [digest for digest in self.file.checks.digests if digest is not None]
        self.manifest = self.growing.finish(self.file.target.name, layer)
        return True

    def _go_on(self, _: float) -> None:
        if self.stopped.is_set():
            raise TwdError(FailureCode.CANCELLED, f"stopped while {self.file.target.name} was checked")

    def _check_whole(self) -> None:
        if self.manifest is not None or self.holds_promise():
            return
        self.file.forget()
        text = (
            f"{self.file.target.name} came with another SHA-256 than {self._sha256[:12]}…, which was promised: it gets "
            "no name; pull again, and all of it is fetched anew"
        )
        raise TwdError(FailureCode.WRONG_BYTES, text)


class Elsewhere(NamedTuple):
    """What other machines of the bus have of a file."""

    begun: bool = False
    """Whether any has some of it, or reads it."""
    manifest: Manifest | None = None
    """From one that has all of it."""


async def _nowhere() -> Elsewhere:
    return Elsewhere()


def _partial_file(target: Path, remote: RemoteFile) -> PartialFile:
    try:
        return PartialFile(target, remote.sha256, Checks.unknown(remote.size))
    except OSError as error:
        text = f"{target.parent} may not be written to ({error.strerror}); name another --dir"
        raise TwdError(FailureCode.BAD_REQUEST, text) from None


def _shared(library: Library | None, remote: RemoteFile, file: PartialFile) -> Shared | None:
    """The file as others find it, if there is a library to find it in."""
    if library is None:
        return None
    shared = shared_from_hub(remote, file)
    if shared is not None:
        library.add(shared)
    return shared


class HubTransfer:
    """Continues a partial file from a hub or begins a new one. Raises TwdError if it cannot begin."""

    def __init__(
        self,
        client: HubClient,
        remote: RemoteFile,
        target: Path,
        *,
        parallel: int = CONNECTIONS,
        piece_bytes: int = PIECE_BYTES,
        pace: Pace | None = None,
        hooks: Hooks | None = None,
        stores: Sequence[ModelStore] = (),
        library: Library | None = None,
    ) -> None:
        """`stores`: where a copy may lie on this machine already.

        `library`: where other machines find what came. If it is given, the hub is read only between `use_hub` and
        `leave_hub`.
        """
        check_name(target.name)
        self.remote, self.target, self._stores, self._library = remote, target, stores, library
        self.file = _partial_file(target, remote)
        self._source = HubSource(client, remote)
        self.shared = _shared(library, remote, self.file)
        self._new_pull = partial(
            HubPull,
            self.file,
            remote,
            piece_bytes,
            parallel=max(parallel, CONNECTIONS),
            hooks=hooks,
            pace=pace,
            shared=self.shared,
            alone=library is None,
        )
        self.pull = self._new_pull()
        self.begun = False
        """Whether sources may be added: what is here was taken already."""
        self.when_begun: Callable[[], None] = lambda: None
        self.elsewhere: Callable[[], Awaitable[Elsewhere]] = _nowhere

    async def run(self) -> None:
        """Run until the file has its final name; raises why not."""
        try:
            await self._run()
            if self.pull.manifest is not None:
                await asyncio.to_thread(write_manifest, manifest_of(self.target), self.pull.manifest)
                self._share_whole(self.pull.manifest)
        except asyncio.CancelledError:
            self.pull.stopped.set()
            raise
        finally:
            if self._library is not None and self.shared is not None:
                self._library.drop(self.shared)

    def progress(self) -> Progress:
        """Return how far it is."""
        return self.pull.progress()

    @property
    def counts(self) -> Counts:
        """What came."""
        return self.pull.counts

    async def _run(self) -> None:
        try:
            await self._take_copy()
            if not self.file.have.complete:
                await self._take_tensors()
            if self._library is None and not self.file.have.complete:
                await self.use_hub()
        except BaseException:
            await asyncio.to_thread(self.file.close)
            raise
        self.begun = True
        self.when_begun()
        await self.pull.run()

    async def _take_tensors(self) -> None:
        """Take what models here have in common with the file: by the manifest of a machine that has it, if there is
        one; else by guesses, unless another machine reads it from the hub already."""
        known = await self.elsewhere()
        if known.manifest is not None:
            await asyncio.to_thread(self._learn, known.manifest)
            await copied(self.pull, partial(take_local, self.file, known.manifest, self._stores))
        elif not known.begun and self._stores:
            guesses = Guesses(self.pull, self._source, self._stores)
            await guesses.make()
            self.pull.guess(guesses.units)

    def _learn(self, manifest: Manifest) -> None:
        for index, digest in enumerate(manifest.layer_hashes()):
            self.file.checks.learn(index, digest)
            self.pull.sampler.hashed(index)

    def _share_whole(self, manifest: Manifest) -> None:
        if self._library is not None:
            self._library.add(Shared.whole(manifest, self.target))

    async def use_hub(self) -> None:
        """Read from the hub from now on; raises if that is no model."""
        if 0 not in self.file.have:
            check_magic(self.remote, await self._source.some(0, min(len(MAGIC), self.remote.size)))
        if not self.file.have.complete:  # it may have ended meanwhile
            self.pull.add(self._source)

    def leave_hub(self) -> None:
        """Read from the hub no more: another machine does."""
        self.pull.drop(self._source.name)

    @property
    def uses_hub(self) -> bool:
        """Whether the hub is a source now; False also when it refused the file."""
        return self._source.name in self.pull.names()

    async def _take_copy(self) -> None:
        """Take a copy that is here; one that turns out to be another file is dropped."""
        for copy in await asyncio.to_thread(whole_copies, self._stores, self.remote.sha256, self.remote.size):
            if self.file.have.count and not copy.known:
                continue
            take = partial(take_units, self.file, [whole(copy, self.remote.size)], define=True)
            await copied(self.pull, take)
            if self.file.have.complete and await asyncio.to_thread(self.pull.holds_promise):
                return
            self.pull.growing.close()
            self.file.forget()
            self.pull = self._new_pull()


class _SharedFromHub(Shared):
    """A file that comes from a hub: its manifest is made when all of it is here."""

    @property
    def manifest_bytes(self) -> bytes:
        """Not known yet."""
        text = f"{self.manifest.filename} is still on its way from a hub; its manifest is made when it is here"
        raise TwdError(FailureCode.BUSY, text)


def shared_from_hub(remote: RemoteFile, file: PartialFile) -> Shared:
    """Return the share of a file on its way from a hub: its name is its SHA-256, its hashes are those that came."""
    told = Manifest(
        filename=remote.name, total_size=remote.size, piece_size=UNIT, root=remote.sha256, sha256=remote.sha256
    )
    shared = _SharedFromHub(told, file.target, os.dup(file.descriptor), file.have)
    shared.checks = file.checks
    return shared
