"""One file from its manifest to its final name: the partial file, the pull, and the share for others meanwhile."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from twd.models.reuse import Copying, part_ranges, take_local, take_units
from twd.models.stores import ModelStore
from twd.pieces.checks import Checks
from twd.pieces.making import known_manifest, make_manifest
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import manifest_of
from twd.pieces.partial import PartialFile
from twd.swarm.copying import copied
from twd.swarm.library import Library
from twd.swarm.pace import Pace
from twd.swarm.puller import Counts, Hooks, Progress, Pull, Ranges
from twd.swarm.shared import Shared
from twd.wire.failures import FailureCode, TwdError


def target_in(dest: Path, filename: str) -> Path:
    """Return the target: DEST, or the manifest's file name in the folder DEST; raises if there is no such folder."""
    target = dest / filename if dest.is_dir() else dest
    if not target.parent.is_dir():
        text = f"there is no folder {target.parent}; make it, or name another DEST"
        raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
    return target


def is_here(target: Path, manifest: Manifest) -> bool:
    """Return whether the file is there already; raises if another file has its name."""
    if not target.exists():
        return False
    if target.is_dir():
        raise TwdError(FailureCode.BAD_REQUEST, f"{target} is a folder; name another DEST")
    found = None
    if target.stat().st_size == manifest.total_size:
        found = known_manifest(target) or make_manifest(target, manifest.piece_size, with_inspection=False)
    if found is not None and (found.root == manifest.root or [*found.pieces] == [*manifest.pieces] != []):
        return True
    text = f"{target} is there and is another file than the one that is wanted; move it away, or name another DEST"
    raise TwdError(FailureCode.BAD_REQUEST, text)


class Transfer:
    """Continues a partial file or begins a new one. Raises TwdError or OSError if it cannot begin."""

    stores: Sequence[ModelStore] = ()
    """Where the same bytes may lie on this machine already; they are copied, and not fetched."""
    kept: Path | None = None
    """The target of a partial file of the same bytes, which came for its layers."""

    def __init__(
        self,
        manifest: Manifest,
        target: Path,
        *,
        library: Library | None = None,
        parallel: int = 4,
        pace: Pace | None = None,
        hooks: Hooks | None = None,
        ranges: Ranges | None = None,
        patience_s: float = 30.0,
    ) -> None:
        """`ranges`: only these bytes; the file stays partial."""
        self.manifest, self.target, self._library = manifest, target, library
        try:
            self.file = PartialFile(target, manifest.name, Checks.of(manifest), some=ranges is not None)
        except OSError as error:
            text = f"{target.parent} may not be written to ({error.strerror}); name another DEST"
            raise TwdError(FailureCode.BAD_REQUEST, text) from None
        write_manifest(manifest_of(target), manifest)
        self.shared = Shared.partial(manifest, self.file)
        if library is not None:
            library.add(self.shared)
        self.pull = Pull(
            self.file,
            shared=self.shared,
            parallel=parallel,
            pace=pace,
            hooks=hooks,
            ranges=ranges,
            patience_s=patience_s,
        )

    def progress(self) -> Progress:
        """Return how far it is."""
        return self.pull.progress()

    @property
    def counts(self) -> Counts:
        """What came."""
        return self.pull.counts

    async def run(self) -> None:
        """Run until the file has its final name or all ranges are there; raises why not."""
        try:
            await self._take_local()
            await self.pull.run()
        except BaseException:
            self._unshare()
            raise
        if self.target.exists():
            await asyncio.to_thread(write_manifest, manifest_of(self.target), self.manifest)
        if self._library is None:
            self.shared.close()

    async def _take_local(self) -> None:
        if not self.stores and self.kept is None:
            return
        try:
            await copied(self.pull, self._copy)
        except BaseException:
            await asyncio.to_thread(self.file.close)
            raise

    def _copy(self, copying: Copying) -> None:
        if self.kept is not None:
            take_units(self.file, part_ranges(self.kept, self.file.checks), copying)
        take_local(self.file, self.manifest, self.stores, copying)

    def _unshare(self) -> None:
        if self._library is not None:
            self._library.drop(self.shared)
        else:
            self.shared.close()
