"""The HTTP client of a hub. It follows redirects itself, so that the token goes to the hub alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp
import msgspec

from twd import __version__
from twd.models.addresses import may_have_token, next_address, origin_of
from twd.pieces.source import SourceError, SourceTrouble
from twd.wire.reading import NONSENSE

CONNECT_S: Final = 10.0
SILENT_S: Final = 20.0
TRIES: Final = 4
RETRY_S_MAX: Final = 60.0
"""The longest pause that a hub can ask for; after a longer one the command says so and ends."""
REDIRECTS_MAX: Final = 5
JSON_BYTES_MAX: Final = 32 * 1024 * 1024
READ_BYTES: Final = 1 << 20
_MOVED: Final = (301, 302, 303, 307, 308)
_NOW_NOT: Final = (429, 503)
_REFUSED: Final = (400, 401, 403, 404, 405, 410, 451)
T = TypeVar("T")


class HubError(SourceError):
    """What a hub answered instead of what was asked for; `status` is 0 where it did not answer."""

    def __init__(
        self,
        trouble: SourceTrouble,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        said: str = "",
        retry_s: float = 0,
    ) -> None:
        super().__init__(trouble, message, retry_s)
        self.status, self.hub_code, self.said = status, code, said


class RangeFound(NamedTuple):
    """The answer to a request for some bytes: their place, and the size of the whole file."""

    begin: int
    end: int
    total: int


class HubClient:
    """Requests to one hub and to the servers that it sends us to. Close it in the end."""

    def __init__(
        self,
        endpoint: str,
        token: str = "",
        *,
        offline: bool = False,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint, self.has_token, self._offline = endpoint, bool(token), offline
        self._token, self._pause = token, pause
        self._session: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        """The hub's name for people."""
        _, host, port = origin_of(self.endpoint)
        return host if port in (80, 443) else f"{host}:{port}"

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENT_S),
                connector=aiohttp.TCPConnector(limit=0),
                auto_decompress=False,
                read_bufsize=READ_BYTES,
                headers={"User-Agent": f"twd/{__version__}", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    # -- one request -------------------------------------------------------------------------------

    def _authorization(self, url: str) -> dict[str, str]:
        """The header with the token, for addresses that may have it."""
        return {"Authorization": f"Bearer {self._token}"} if self._token and may_have_token(url, self.endpoint) else {}

    @asynccontextmanager
    async def once(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response of one server, a redirect too; raises HubError for what is neither."""
        if self._offline:
            raise HubError(SourceTrouble.REFUSED, f"HF_HUB_OFFLINE is set, so {self.host} is not asked; unset it")
        told = {**(headers or {}), **self._authorization(url)}
        try:
            async with self._client().request(method, url, headers=told, allow_redirects=False) as response:
                if response.status not in (200, 206, *_MOVED):
                    raise await _refusal(url, response)
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = f"{_where(url)} does not answer: {str(error) or type(error).__name__}"
            raise HubError(SourceTrouble.AWAY, text) from None
        except ValueError as error:
            raise HubError(SourceTrouble.REFUSED, f"{_where(url)} is no address to ask: {error}") from None

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response to a GET, behind all redirects."""
        for _ in range(REDIRECTS_MAX + 1):
            async with self.once("GET", url, headers) as response:
                if response.status not in _MOVED:
                    yield response
                    return
                url = _followed(url, response)
        raise HubError(SourceTrouble.WRONG, f"{_where(url)} leads from one address to the next without an end")

    async def address(self, url: str) -> str:
        """Return where a file's bytes lie: the first address elsewhere that the hub leads to, or its own."""
        for _ in range(REDIRECTS_MAX + 1):
            async with self.once("HEAD", url) as response:
                if response.status not in _MOVED:
                    return url
                url = _followed(url, response)
            if origin_of(url) != origin_of(self.endpoint):
                return url
        raise HubError(SourceTrouble.WRONG, f"{_where(url)} leads from one address to the next without an end")

    # -- metadata ------------------------------------------------------------------------------------

    async def json(self, url: str, kind: type[T], headers: Mapping[str, str] | None = None) -> tuple[T, str]:
        """Return an answer in JSON, and the address of its next page or ""; waits and asks again while that helps."""
        return await self.patiently(lambda: self._json(url, kind, headers))

    async def _json(self, url: str, kind: type[T], headers: Mapping[str, str] | None) -> tuple[T, str]:
        async with self.get(url, headers) as response:
            data = await _all_of(response)
            more = response.links["next"].get("url") if "next" in response.links else None
            try:
                return msgspec.json.decode(data, type=kind), str(more) if more is not None else ""
            except NONSENSE as error:
                what = "a web page" if data.lstrip()[:1] == b"<" else f"what makes no sense here ({error})"
                text = f"{_where(url)} answered with {what}; is it a hub, or is a login page or a proxy in between?"
                raise HubError(SourceTrouble.WRONG, text) from None

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again after a pause while the hub is away or busy, a few times."""
        for number in range(1, TRIES + 1):
            try:
                return await ask()
            except HubError as error:
                wait = error.retry_s or 0.5 * 2.0**number
                again = error.trouble in (SourceTrouble.AWAY, SourceTrouble.BUSY) and wait <= RETRY_S_MAX
                if not again or number == TRIES:
                    raise
                await self._pause(wait)
        raise AssertionError

    # -- bytes ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def range(
        self, url: str, begin: int, length: int
    ) -> AsyncIterator[tuple[RangeFound, aiohttp.ClientResponse]]:
        """Yield the answer to one Range request; raises HubError where the server sends something else."""
        async with self.get(url, {"Range": f"bytes={begin}-{begin + length - 1}"}) as response:
            if response.content_type in ("text/html", "application/xhtml+xml"):
                text = f"{_where(url)} sends a web page instead of the file; is a login page or a proxy in between?"
                raise HubError(SourceTrouble.WRONG, text)
            found = read_content_range(response.headers.get("Content-Range", ""))
            if response.status != 206 or found is None or found.begin != begin:
                text = f"{_where(url)} does not send parts of a file (HTTP Range); name another address of it"
                raise HubError(SourceTrouble.WRONG, text)
            yield found, response


def read_content_range(text: str) -> RangeFound | None:
    """Return what a Content-Range header tells, or None."""
    unit, _, rest = text.partition(" ")
    place, _, total = rest.partition("/")
    begin, _, last = place.partition("-")
    numbers = (begin, last, total)
    if unit != "bytes" or not all(one.isascii() and one.isdecimal() and len(one) < 20 for one in numbers):
        return None
    return RangeFound(int(begin), int(last) + 1, int(total))


def _followed(url: str, response: aiohttp.ClientResponse) -> str:
    target, why = next_address(url, response.headers.get("Location", ""))
    if why:
        raise HubError(SourceTrouble.WRONG, f"{_where(url)}: {why}; it is not followed")
    return target


async def _all_of(response: aiohttp.ClientResponse) -> bytes:
    data = b""
    while part := await response.content.read(READ_BYTES):
        data += part
        if len(data) > JSON_BYTES_MAX:
            raise HubError(SourceTrouble.WRONG, f"{_where(str(response.url))} answers without an end")
    return data


async def _refusal(url: str, response: aiohttp.ClientResponse) -> HubError:
    headers, status = response.headers, response.status
    said = headers.get("X-Error-Message") or _message_in(await response.content.read(4000)) or str(response.reason)
    retry_s = retry_after(headers.get("Retry-After", ""), headers.get("RateLimit", "")) if status in _NOW_NOT else 0.0
    text = f"{_where(url)} answered {status}: {said[:300]}"
    if status in _NOW_NOT:
        trouble = SourceTrouble.BUSY
        text += f"; it asks to wait {retry_s:.0f} s"
    else:
        trouble = SourceTrouble.REFUSED if status in _REFUSED else SourceTrouble.AWAY
    code = headers.get("X-Error-Code", "")
    return HubError(trouble, text, status=status, code=code, said=said[:300], retry_s=retry_s)


class _Said(msgspec.Struct):
    error: Any = ""
    errors: Any = ""
    message: Any = ""


def _message_in(body: bytes) -> str:
    """Return what an error's body says, by Hugging Face's or a registry's form of it; nothing of a web page."""
    try:
        told = msgspec.json.decode(body, type=_Said)
    except NONSENSE:
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text.split("\n")[0]
    found = told.error or told.errors or told.message
    while isinstance(found, list | dict) and found:
        found = found[0] if isinstance(found, list) else found.get("message") or found.get("code")
    return str(found or "")


def retry_after(seconds: str, rate_limit: str) -> float:
    """Return the pause that a busy hub asks for, by `Retry-After` or by `RateLimit: "api";r=0;t=SECONDS`."""
    _, found, reset = rate_limit.replace(" ", "").rpartition(";t=")
    told = seconds.strip() or (reset.split(";")[0].split(",")[0] if found else "")
    return float(told) if told.isascii() and told.isdecimal() and len(told) < 7 else 1.0


def _where(url: str) -> str:
    """Return an address for a message: without its query, which may be a signature."""
    return url.split("?")[0].split("#")[0][:200]
