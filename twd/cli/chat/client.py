"""The HTTP side of `twd chat`: asks a server, streams its answer, says in words what is wrong."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec

from twd.cli.chat.stream import AnswerReader, StreamedAnswer, no_sense
from twd.cli.common.api_address import ApiAddress
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.wire.failures import sentences
from twd.wire.reading import NONSENSE

CONNECT_S: Final = 10.0
SILENCE_S: Final = 300.0
"""A server without a byte for so many seconds hangs; ours sends a sign of life every few seconds."""
BODY_BYTES_MAX: Final = 1024 * 1024

OnText = Callable[[str], None]


def _is_alias(card: dict[str, Any]) -> bool:
    """Whether a card is another name of a model that has a card of its own."""
    own = card.get("twd")
    return isinstance(own, dict) and "alias_of" in own


class ChatClient:
    """Talks to one server over one connection that is kept."""

    def __init__(self, server: ApiAddress) -> None:
        self.server = server
        self._session: aiohttp.ClientSession | None = None
        self.reader = AnswerReader()
        """Of the answer that comes, or came last: what is left of one that was stopped."""
        self.job = ""

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[str]:
        """The names of the models that the server lists."""
        async with self._call("GET", "/v1/models") as response:
            listed = await _json(response)
        cards = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(cards, list):
            raise no_sense("its /v1/models lists no models")
        return [str(card["id"]) for card in cards if isinstance(card, dict) and "id" in card and not _is_alias(card)]

    async def ask(
        self, body: dict[str, Any], on_text: OnText, on_thought: OnText = lambda text: None
    ) -> StreamedAnswer:
        """Stream one answer; a cancelled call disconnects, which cancels the job."""
        self.reader, self.job = AnswerReader(on_thought), ""
        began = time.monotonic()
        async with self._call("POST", "/v1/chat/completions", body) as response:
            self.job = response.headers.get("x-twd-job", "")
            if "event-stream" not in response.content_type:
                raise no_sense(f"{response.content_type} instead of a stream; is it an OpenAI-compatible server?")
            async for data in response.content.iter_any():
                text = self.reader.feed(data, time.monotonic() - began)
                if text:
                    on_text(text)
                if self.reader.answer.done:
                    break
        self.reader.end()
        return self.reader.answer

    @asynccontextmanager
    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._open().request(
                method,
                self.server.url + path,
                data=None if body is None else msgspec.json.encode(body),
                headers={"Content-Type": "application/json", **self.server.headers},
                allow_redirects=False,
                ssl=self.server.tls or True,
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session

    def _unreachable(self, error: Exception) -> CommandError:
        url = self.server.url
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = "its certificate is not trusted here; SSL_CERT_FILE may name the authority that signed it"
            return CommandError(ExitCode.NOTHING_RUNS, f"{url}: {why}")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return CommandError(ExitCode.NOTHING_RUNS, f"nobody answers at {url}; `twd status` tells what runs here")
        if isinstance(error, aiohttp.InvalidURL):
            return CommandError(ExitCode.USAGE, f"{url} is no address of a server")
        if self.reader.answer.text:
            return CommandError(ExitCode.UNHEALTHY, f"the answer broke off: {error or 'the connection is gone'}")
        if isinstance(error, aiohttp.ClientResponseError):
            return CommandError(ExitCode.USAGE, f"{url} does not speak HTTP; name an OpenAI-compatible server")
        return CommandError(ExitCode.UNHEALTHY, f"{url}: {error or type(error).__name__}")

    async def _refusal(self, response: aiohttp.ClientResponse) -> CommandError:
        message, code = _words_of(await _body(response))
        return refusal(self.server, response.status, message, code, response.headers.get("Location", ""))


def refusal(server: ApiAddress, status: int, message: str, code: str, location: str = "") -> CommandError:
    """Return the error for a status, in words for a user."""
    if status == 401:
        wrong = "refuses this key" if server.key else "wants a key"
        text = f"{server.url} {wrong}; give one with --key or TWD_TOKEN (`twd key add NAME` makes one)"
        return CommandError(ExitCode.USAGE, text)
    if 300 <= status < 400:
        return CommandError(ExitCode.USAGE, f"{server.url} sends its callers to {location[:200]}; name that with --url")
    if status == 404 and code != "model_not_found":
        return CommandError(ExitCode.NOT_FOUND, f"{server.url} has no such API; name an OpenAI-compatible server")
    if code == "nobody_home":
        return CommandError(ExitCode.NOTHING_RUNS, message)
    exits = {404: ExitCode.NOT_FOUND, 429: ExitCode.UNHEALTHY}
    otherwise = ExitCode.USAGE if status < 500 else ExitCode.UNHEALTHY
    return CommandError(exits.get(status, otherwise), message or f"{server.url} answers with status {status}")


def _words_of(body: bytes) -> tuple[str, str]:
    """An error body's message with its advice, and its code."""
    try:
        document = msgspec.json.decode(body)
    except NONSENSE:
        return "", ""
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str):
        return error[:1000], ""
    if not isinstance(error, dict):
        return "", ""
    message, advice = str(error.get("message") or ""), str(error.get("advice") or "")
    return sentences(message, advice)[:1000], str(error.get("code") or "")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body, or as much of it as anybody needs."""
    body = b""
    async for data in response.content.iter_any():
        body += data
        if len(body) > BODY_BYTES_MAX:
            break
    return body


async def _json(response: aiohttp.ClientResponse) -> Any:
    try:
        return msgspec.json.decode(await _body(response))
    except NONSENSE as error:
        raise no_sense(str(error)) from None
