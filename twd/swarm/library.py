"""The files that this machine shares, by root."""

from collections.abc import Iterator, Sequence

from twd.pieces.manifest import Manifest
from twd.pieces.names import part_of
from twd.pieces.tree import units_of
from twd.swarm.shared import Shared
from twd.wire.failures import FailureCode, TwdError


class Library:
    """All shared files by root; a single one also answers requests without a root."""

    def __init__(self) -> None:
        self._files: dict[str, Shared] = {}

    def __iter__(self) -> Iterator[Shared]:
        return iter(list(self._files.values()))

    def __len__(self) -> int:
        return len(self._files)

    def add(self, shared: Shared) -> None:
        """Share a file. A file with its final name that is shared already stays, unless the new one knows the other
        files of its model; else the new one replaces it."""
        before = self._files.get(shared.name)
        stays = before is not None and before is not shared and before.has_name and before.fit()
        if stays and before is not None and bool(before.manifest.shards) >= bool(shared.manifest.shards):
            shared.close()
            return
        self._files[shared.name] = shared
        if before is not None and before is not shared:
            before.close()

    def drop(self, shared: Shared) -> None:
        """Stop to share a file."""
        if self._files.get(shared.name) is shared:
            del self._files[shared.name]
            shared.close()

    def find(self, root: str) -> Shared | None:
        """Return the file with this root, or None."""
        return self._files.get(root)

    def get(self, root: str) -> Shared:
        """Return the file with this root (empty: the only one); raises TwdError for the caller."""
        if not root and len(self._files) == 1:
            return next(iter(self._files.values()))
        if not root:
            text = f"{len(self._files)} files are shared here; name one: /v1/swarm lists them"
            raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
        found = self._files.get(root) or self._by_sha256(root)
        if found is None:
            text = f"no file with root {root[:64]!r} is shared here; /v1/swarm lists what is"
            raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
        if not found.fit():
            self.drop(found)
            text = f"{found.path.name} changed while it was shared; its seeder must make the manifest again"
            raise TwdError(FailureCode.WRONG_BYTES, text)
        return found

    def units(self, shared: Shared) -> tuple[int, int]:
        """Return how many units are here and how many there are: of a split model's first file, those of all files."""
        if not shared.manifest.model_hash:
            return shared.have.count, len(shared.have)
        here = [one for part in shared.manifest.shards if (one := self.find(part.root)) is not None]
        return sum(one.have.count for one in here), sum(units_of(part.size) for part in shared.manifest.shards)

    def is_whole(self, shared: Shared) -> bool:
        """Return whether a file, and all others of its model if it is the first one, are here and unchanged."""
        names = [part.root for part in shared.manifest.shards] if shared.manifest.model_hash else [shared.name]
        return all((one := self.find(name)) is not None and one.have.complete and one.fit() for name in names)

    def with_headers(self, manifests: Sequence[Manifest]) -> list[Shared]:
        """Return these files, if the header of each is here; otherwise nothing."""
        found = [one for manifest in manifests if (one := self.find(manifest.name)) is not None and one.fit()]
        whole = [one for one in found if one.has_range(0, one.manifest.data_offset)]
        return whole if len(whole) == len(manifests) else []

    def drop_removed(self) -> None:
        """Stop to share partial files that were removed: their bytes leave the disk only then."""
        for shared in self:
            if not shared.have.complete and not part_of(shared.path).exists() and not shared.path.exists():
                self.drop(shared)

    def _by_sha256(self, sha256: str) -> Shared | None:
        """Return the file that hubs know by this SHA-256."""
        return next((one for one in self if one.manifest.sha256 == sha256), None)

    def close(self) -> None:
        """Stop to share all files."""
        for shared in self:
            self.drop(shared)
