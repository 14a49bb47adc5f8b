"""A file on a hub, and a `Source` that reads it there: Ranges, and a new address when the old one has expired."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from twd.models.addresses import origin_of
from twd.models.client import HubClient, HubError
from twd.models.explaining import explained
from twd.pieces.source import News, SourceTrouble
from twd.pieces.tree import units_of
from twd.wire.failures import FailureCode, TwdError

CONNECTIONS: Final = 8
"""Requests to a hub at once: many hubs limit the speed of each connection."""
MAGIC: Final = b"GGUF"
_EXPIRED: Final = (400, 401, 403, 404, 410)


@dataclass(frozen=True)
class RemoteFile:
    """What a hub tells of one file."""

    name: str
    """The file's name on this machine."""
    size: int
    sha256: str
    url: str
    """Where the hub answers for it; it often leads elsewhere."""
    origin: str
    """Where it is from, for people: with the commit or tag."""
    repo: str = ""
    """Its repository, if it is on Hugging Face."""


class HubSource:
    """One file of a hub as a source of the swarm's puller."""

    defines = True
    most = CONNECTIONS
    least = 8

    def __init__(self, client: HubClient, file: RemoteFile) -> None:
        self.name, self.file = client.host, file
        self._client = client
        self._address = ""
        self._asking = asyncio.Lock()

    async def news(self) -> AsyncIterator[News]:
        """A hub has all of it."""
        yield News(have=list(range(units_of(self.file.size))))

    async def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """Yield these bytes of the file; an address that has expired is asked for anew, once."""
        address = await self._current()
        try:
            async for data in self._read(address, begin, length):
                yield data
            return
        except HubError as error:
            if error.status not in _EXPIRED or self._at_hub(address):
                raise
        address = await self._current(instead=address)
        try:
            async for data in self._read(address, begin, length):
                yield data
        except HubError as error:
            if error.status in _EXPIRED:  # a new address that is refused, too: perhaps only for now
                raise HubError(SourceTrouble.AWAY, str(error), status=error.status) from None
            raise

    def _at_hub(self, address: str) -> bool:
        return origin_of(address) == origin_of(self._client.endpoint)

    async def _current(self, instead: str = "") -> str:
        """Return the address of the bytes; asks the hub if there is none, or still the one that has expired."""
        async with self._asking:
            if not self._address or self._address == instead:
                self._address = await self._client.address(self.file.url)
            return self._address

    async def _read(self, address: str, begin: int, length: int) -> AsyncIterator[bytes]:
        async with self._client.range(address, begin, length) as (found, response):
            if found.total != self.file.size or found.end != begin + length:
                text = f"{self.name} has {found.total} bytes of {self.file.name}, and told of {self.file.size}"
                raise HubError(SourceTrouble.WRONG, f"{text}; it changed there: pull it again")
            left = length
            while left:
                data = await response.content.readany()
                if not data:
                    raise HubError(SourceTrouble.AWAY, f"{self.name} hung up in the middle")
                left -= len(data)
                if left < 0:
                    raise HubError(SourceTrouble.WRONG, f"{self.name} sends more than was asked for")
                yield data

    async def some(self, begin: int, length: int) -> bytes:
        """Return some bytes of the file at once; asks a few times."""

        async def read() -> bytes:
            return b"".join([data async for data in self.read(begin, length)])

        try:
            return await self._client.patiently(read)
        except HubError as error:
            raise self._explained(error) from None

    def _explained(self, error: HubError) -> TwdError:
        refused = self.file.repo and error.status in (401, 403, 404, 429)
        return explained(error, self._client, self.file.repo) if refused else error

    async def close(self) -> None:
        """Does nothing: the connections belong to the client."""


def check_magic(file: RemoteFile, begin: bytes) -> None:
    """Raise TwdError unless a file begins as a GGUF file does."""
    if begin[: len(MAGIC)] == MAGIC:
        return
    what = "a web page" if begin.lstrip()[:1] == b"<" else "no GGUF file"
    raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{file.origin} is {what}; name a file that ends in .gguf")


def check_sha256(origin: str, sha256: str, size: int) -> None:
    """Raise TwdError where a hub does not tell what a file's bytes are checked by."""
    if len(sha256) != 64 or any(letter not in "0123456789abcdef" for letter in sha256):
        text = (
            f"for {origin} no SHA-256 is told, so its bytes could not be checked; take it from another place, "
            "or give its URL with #sha256=HEX behind it"
        )
        raise TwdError(FailureCode.BAD_REQUEST, text, "sha256")
    if size < 1:
        raise TwdError(FailureCode.BAD_REQUEST, f"{origin} is empty there; name another file", "size")
