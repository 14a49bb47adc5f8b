"""Hugging Face's protocol: which files a repository has at a commit, and what it says when it refuses."""

from typing import Final
from urllib.parse import quote

import msgspec

from twd.models.client import HubClient, HubError
from twd.models.explaining import explained
from twd.models.listing import HubEntry, Model, pick_file, pick_quant
from twd.models.remote_file import RemoteFile, check_sha256
from twd.models.spec import HubFile, HubQuant
from twd.pieces.source import SourceError
from twd.wire.failures import TwdError

PAGES_MAX: Final = 100
ENTRIES_MAX: Final = 50_000
NEAR: Final = 4


class _Revision(msgspec.Struct):
    sha: str


class _Named(msgspec.Struct):
    id: str


class HuggingFace:
    """One hub with Hugging Face's protocol."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    async def files(self, spec: HubFile | HubQuant) -> list[RemoteFile]:
        """Return the files that a SPEC means, all shards of it; raises TwdError with words for people."""
        commit, entries = await self.listing(spec.repo, spec.revision)
        if isinstance(spec, HubFile):
            model: Model = pick_file(spec.repo, entries, spec.path)
        else:
            model = pick_quant(spec.repo, entries, spec.quant)
        return [self._remote(spec.repo, commit, entry) for entry in model]

    def _remote(self, repo: str, commit: str, entry: HubEntry) -> RemoteFile:
        origin = f"{repo}/{entry.path}"
        check_sha256(origin, entry.sha256, entry.bytes)
        url = f"{self._client.endpoint}/{repo}/resolve/{commit}/{quote(entry.path)}"
        name = entry.path.rpartition("/")[2]
        return RemoteFile(name, entry.bytes, entry.sha256, url, f"{origin} at {commit[:12]}", repo)

    async def listing(self, repo: str, revision: str) -> tuple[str, list[HubEntry]]:
        """Return the commit of a revision, and all files of a repository at that commit."""
        api = f"{self._client.endpoint}/api/models/{repo}"
        try:
            found, _ = await self._client.json(f"{api}/revision/{quote(revision, safe='')}", _Revision)
            entries: list[HubEntry] = []
            url = f"{api}/tree/{quote(found.sha, safe='')}?recursive=true&expand=false"
            for _ in range(PAGES_MAX):
                page, url = await self._client.json(url, list[HubEntry])
                entries += page
                if not url or len(entries) > ENTRIES_MAX:
                    break
        except HubError as error:
            raise await self._explained(error, repo, revision) from None
        return found.sha, entries

    async def _explained(self, error: HubError, repo: str, revision: str) -> TwdError:
        near: list[str] = []
        if error.status in (401, 404) and error.hub_code in ("", "RepoNotFound"):
            near = await self._near(repo)
        return explained(error, self._client, repo, revision, near)

    async def _near(self, repo: str) -> list[str]:
        """Return repositories with a similar name."""
        url = f"{self._client.endpoint}/api/models?search={quote(repo.partition('/')[2])}&limit={NEAR}"
        try:
            found, _ = await self._client.json(url, list[_Named])
        except SourceError:
            return []
        return [one.id for one in found[:NEAR]]
