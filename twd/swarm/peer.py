"""Another machine as a source of units: the client of its seeder, over HTTP or HTTPS."""

import base64
import binascii
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec

from twd.pieces.bitmap import Bitmap
from twd.pieces.manifest import MANIFEST_BYTES_MAX, Manifest, read_manifest
from twd.pieces.source import News, SourceError, SourceTrouble
from twd.swarm.seeder import ROOT, Begin
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

CONNECT_S: Final = 5.0
ANSWER_S: Final = 20.0
READING_S: Final = 1800.0
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
READ_BYTES: Final = 1 << 20
MOST: Final = 4
_REFUSED: Final = (400, 401, 403, 410)


class Peers:
    """The HTTP client of one puller; it follows no redirects and uses no proxy."""

    def __init__(self, token: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session, made at first use, as it needs a running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S),
                connector=aiohttp.TCPConnector(limit=0, force_close=False, use_dns_cache=True),
                auto_decompress=False,
                read_bufsize=READ_BYTES,
                headers=self._headers,
            )
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def manifest(self, url: str, context: ssl.SSLContext | None = None, patient: bool = False) -> Manifest:
        """Return the manifest at a URL; raises SourceError or BadManifest. `patient`: it may have to be made first."""
        async with self.get(url, context=context, silent_s=READING_S if patient else ANSWER_S) as response:
            data = await response.content.read(MANIFEST_BYTES_MAX + 1)
            while len(data) <= MANIFEST_BYTES_MAX and (more := await response.content.read(MANIFEST_BYTES_MAX)):
                data += more
        return read_manifest(data)

    @asynccontextmanager
    async def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        context: ssl.SSLContext | None = None,
        status: int = 200,
        silent_s: float = ANSWER_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response if it has the expected status; raises SourceError otherwise."""
        try:
            async with self.session.get(
                url,
                headers=headers,
                allow_redirects=False,
                ssl=context if context is not None else True,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silent_s),
            ) as response:
                if response.status != status:
                    raise await _refusal(url, response)
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = f"{_short(url)} does not answer: {str(error) or type(error).__name__}"
            raise SourceError(SourceTrouble.AWAY, text) from None
        except ValueError as error:
            raise SourceError(SourceTrouble.REFUSED, f"{_short(url)} is no address to ask: {error}") from None


async def _refusal(url: str, response: aiohttp.ClientResponse) -> SourceError:
    said = (await response.content.read(2000)).decode("utf-8", "replace")
    try:
        said = msgspec.json.decode(said)["error"]["message"]
    except (*NONSENSE, KeyError, TypeError):
        said = said.split("\n")[0][:200]
    text = f"{_short(url)} answered {response.status}: {said or response.reason}"
    if response.status in (429, 503):
        return SourceError(SourceTrouble.BUSY, text, _seconds(response.headers.get("Retry-After", "")))
    if response.status in _REFUSED:
        return SourceError(SourceTrouble.REFUSED, text)
    if 300 <= response.status < 400 or response.status == 200:
        what = "it leads elsewhere" if response.status != 200 else "it ignores Range"
        return SourceError(SourceTrouble.WRONG, f"{_short(url)}: {what}; a peer must answer itself")
    return SourceError(SourceTrouble.AWAY, text)


class Peer:
    """One file of one seeder, as a Source."""

    defines = False
    most = MOST
    least = 1

    def __init__(self, peers: Peers, url: str, root: str, size: int, context: ssl.SSLContext | None = None) -> None:
        """`url`: the seeder, without a path; `context`: the TLS context that checks its certificate."""
        self.name = url.rstrip("/")
        self._peers, self._size, self._context = peers, size, context
        self._base = f"{self.name}{ROOT}/{root}"
        self._news = f"{self._base}/have"

    async def news(self) -> AsyncIterator[News]:
        """Yield the news that the seeder streams."""
        async with self._peers.get(self._news, context=self._context) as response:
            first, rest = True, b""
            while True:
                data = await response.content.readany()
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_BYTES_MAX:
                    raise SourceError(SourceTrouble.WRONG, f"{self.name} tells too much at once")
                for line in lines:
                    yield _read(line, first, self.name)
                    first = False

    async def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """Yield the bytes of one Range request."""
        headers = {"Range": f"bytes={begin}-{begin + length - 1}"}
        async with self._peers.get(f"{self._base}/file", headers, context=self._context, status=206) as response:
            wanted = f"bytes {begin}-{begin + length - 1}/{self._size}"
            if response.headers.get("Content-Range", "") != wanted or response.content_length != length:
                told = response.headers.get("Content-Range", "nothing")[:60]
                text = f"{self.name} sends {told!r}, where {wanted!r} was asked for"
                raise SourceError(SourceTrouble.WRONG, text)
            left = length
            while left:
                data = await response.content.readany()
                if not data:
                    raise SourceError(SourceTrouble.AWAY, f"{self.name} hung up in the middle")
                left -= len(data)
                if left < 0:
                    raise SourceError(SourceTrouble.WRONG, f"{self.name} sends more than was asked for")
                yield data

    async def close(self) -> None:
        """Does nothing: the connections belong to `Peers`."""


class HubPeer(Peer):
    """The same for a file that hubs know by its SHA-256: it tells the hash of each unit, too."""

    def __init__(self, peers: Peers, url: str, sha256: str, size: int, context: ssl.SSLContext | None = None) -> None:
        super().__init__(peers, url, sha256, size, context)
        self._news += "?hashes"


def _read(line: bytes, first: bool, name: str) -> News:
    try:
        if not first:
            return msgspec.json.decode(line, type=News)
        begin = msgspec.json.decode(line, type=Begin)
        bits = Bitmap(min(begin.units, 1 << 24), base64.b64decode(begin.bits, validate=True))
    except (*NONSENSE, binascii.Error, ValueError):
        raise SourceError(SourceTrouble.WRONG, f"{name} does not tell what it has in a way that can be read") from None
    return News(have=list(bits), coming=begin.coming)


async def files_at(peers: Peers, url: str, context: ssl.SSLContext | None = None) -> list[tuple[str, str]]:
    """Return root and name of each file that a seeder shares."""
    async with peers.get(f"{url.rstrip('/')}{ROOT}", context=context) as response:
        data = await response.content.read(1 << 22)
    try:
        return [(str(one["root"]), str(one["filename"])) for one in msgspec.json.decode(data)["files"]]
    except (*NONSENSE, KeyError, TypeError):
        raise TwdError(FailureCode.BACKEND_BROKEN, f"{url} is no seeder of twd") from None


def _seconds(text: str) -> float:
    return min(60.0, float(text)) if text.isdecimal() else 1.0


def _short(url: str) -> str:
    return url.split("?")[0][:200]
