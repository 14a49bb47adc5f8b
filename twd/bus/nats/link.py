"""One connection to one nats-server, from handshake to loss. A lost connection is replaced, never repaired.

nats-py does the handshake, signing in, TLS and pings. Three things differ from its own client: received data is parsed
where it arrives and goes to one receiver without a task in between; commands are written without a flusher task; and
each error that ends a connection ends this object, so that nothing stays in a half-open state.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from twd.bus.address import BusAddress
from twd.bus.base import BusError
from twd.bus.nats.reader import BadFrame, Deliver, NatsFrameReader
from twd.bus.urls import shown_url
from twd.lean_import import without
from twd.wire.failures import FailureCode

with without("aiohttp"):  # only needed for web sockets, and half of the import time of nats
    from nats import errors
    from nats.aio.client import Client

CONNECT_TIMEOUT_S: Final = 2.0
PINGS_UNANSWERED_MAX: Final = 2
WRITE_BUFFER_BYTES: Final = 1024 * 1024
MUCH_BYTES: Final = 32 * 1024
_EVERYTHING: Final = 2**30
_CLOSED: Final = "the connection was closed"


class LinkError(BusError):
    """The connection failed; `final`: another try would fail in the same way."""

    def __init__(self, message: str, code: FailureCode = FailureCode.BUS_DOWN, *, final: bool = False) -> None:
        super().__init__(message, code)
        self.final = final


@dataclass(frozen=True, slots=True)
class Denial:
    """The broker denied this user a publish or a subscription; the connection goes on."""

    action: str
    subject: str
    queue: str = ""

    @property
    def text(self) -> str:
        """The denial in words."""
        verb = "publish on" if self.action == "publish" else "listen on"
        return f"the broker does not let this user {verb} {self.subject}"


class NatsLink:
    """An open connection; make one with `open_link`."""

    def __init__(self, client: "_Client") -> None:
        self._client = client
        self._writer: asyncio.StreamWriter = client.stream_writer
        self._writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._buffered = self._writer.transport.get_write_buffer_size
        self.write = client.send
        self.push = client.send_gathered
        self.lost = client.lost
        self.payload_bytes_max: int = client.max_payload
        self._listened: set[int] = set()
        self._reading = cast(asyncio.ReadTransport, self._writer.transport)
        self._resting = False

    @property
    def clustered(self) -> bool:
        """Whether the server is part of a cluster."""
        return bool(self._client.server_facts.get("cluster"))

    @property
    def congested(self) -> bool:
        """Whether the write buffer is full; exactly then `relieved` waits for room."""
        return self._buffered() + self._client.gathered > WRITE_BUFFER_BYTES

    def listen(self, number: int, frame: bytes) -> None:
        """Send a subscription, if this connection does not have it yet."""
        if number not in self._listened:
            self._listened.add(number)
            self.write(frame)

    def rest(self, seconds: float) -> None:
        """Pause reading for some seconds: what comes meanwhile is read in one go, which costs far less.

        Does nothing if the last read was large: then more data waits, and a pause each time would fall behind.
        """
        if not self._resting and self._client.came < MUCH_BYTES and not self._reading.is_closing():
            self._resting = True
            self._reading.pause_reading()
            asyncio.get_running_loop().call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        self._resting = False
        if not self._reading.is_closing():
            self._reading.resume_reading()

    async def relieved(self) -> None:
        """Return when there is room to write again, or the connection is lost."""
        self._client.send_gathered()
        try:
            await self._writer.drain()
        except OSError as error:
            self._client.lose(str(error))

    async def round_trip(self) -> None:
        """Return when the server has processed everything that was written so far."""
        await self._client.round_trip()

    async def abort(self) -> None:
        """Close the connection at once, without waiting for the peer."""
        await self._client.abort()


async def open_link(
    url: str, address: BusAddress, name: str, ping_interval_s: float, deliver: Deliver, denied: Callable[[Denial], None]
) -> NatsLink:
    """Connect and sign in, or raise a LinkError that says why not."""
    client = _Client(deliver, denied, address)
    try:
        await client.connect(
            servers=[url],
            name=name,
            allow_reconnect=False,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=ping_interval_s,
            max_outstanding_pings=PINGS_UNANSWERED_MAX,
            error_cb=_ignore,
            **_sign_in(address),
        )
    except BaseException as error:
        await client.abort()
        if isinstance(error, Exception):
            raise _explained(error, url) from error
        raise
    return NatsLink(client)


def _sign_in(address: BusAddress) -> dict[str, Any]:
    options: dict[str, Any] = {
        "token": address.token or None,
        "user": address.user or None,
        "password": address.password or None,
        "nkeys_seed": address.nkey_file or None,
        "user_credentials": address.creds_file or None,
        "tls": address.tls_context() if address.wants_tls else None,
    }
    if address.tls.hostname:
        options["tls_hostname"] = address.tls.hostname
    return options


async def _ignore(error: Exception) -> None:
    """Ignore: nats-py reports errors twice; those that end the connection also come by `_process_op_err`."""


_REFUSED = re.compile(r"authori[sz]ation violation|authentication(?! timeout)|user not found|account", re.IGNORECASE)


def _explained(error: Exception, url: str) -> LinkError:
    """Return the error of a failed handshake in words, and whether it would fail again."""
    where, text = shown_url(url), str(error) or type(error).__name__
    if isinstance(error, LinkError):
        return error
    if _REFUSED.search(text):
        return LinkError(
            f"the broker at {where} refuses to let us in: it does not know our key or token. `twd token add` there and "
            "`twd join` here let in a machine that never joined or was removed; of an outside broker check bus.token, "
            "bus.user or the key file",
            FailureCode.UNAUTHENTICATED,
            final=True,
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return LinkError(
            f"the certificate of the broker at {where} cannot be trusted. A broker that twd started on another machine "
            "is joined with `twd token add` there and `twd join` here; for others name the authority as bus.tls.ca "
            f"({text})",
            FailureCode.UNAUTHENTICATED,
            final=True,
        )
    if isinstance(error, TimeoutError) or "authentication timeout" in text:
        return LinkError(f"the broker at {where} does not answer within {CONNECT_TIMEOUT_S:g} s")
    if isinstance(error, OSError | errors.UnexpectedEOF) or "empty response" in text:
        return LinkError(f"no broker answers at {where}: {text}")
    return LinkError(f"what answers at {where} is no NATS server: {text}", FailureCode.BAD_REQUEST, final=True)


_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"(?: using queue "([^"]*)")?')


class _Client(Client):  # type: ignore[misc]
    """nats-py's client, reduced to what NatsLink needs; methods with an underscore override those of nats-py."""

    def __init__(self, deliver: Deliver, denied: Callable[[Denial], None], address: BusAddress) -> None:
        super().__init__()
        self._frames = NatsFrameReader(deliver, self._told)
        self._gathered: list[bytes] = []
        self.gathered = 0
        """Bytes that will be written at the end of this turn of the event loop."""
        self.came = 0
        """Number of bytes of the last read."""
        self._denied = denied
        self._address = address
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def stream_writer(self) -> asyncio.StreamWriter:
        writer: asyncio.StreamWriter = self._transport._io_writer
        return writer

    @property
    def server_facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self._server_info
        return facts

    def send(self, frame: bytes) -> None:
        """Write at the end of this turn of the event loop, together with other frames: one system call."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self.send_gathered)
        self._gathered.append(frame)
        self.gathered += len(frame)

    def send_gathered(self) -> None:
        """Write the gathered frames now."""
        if self._gathered:
            frames, self._gathered, self.gathered = self._gathered, [], 0
            if not self.stream_writer.is_closing():  # frames for a lost connection are dropped
                self.stream_writer.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def lose(self, reason: str) -> None:
        """Mark this connection as lost; whoever waits for a pong gets an error."""
        if not self.lost.done():
            self.lost.set_result(reason)
        for pong in self._pongs:
            if not pong.done():
                pong.cancel()

    def take(self, data: bytes) -> None:
        """Parse received data and write the results; invalid data ends the connection."""
        if self.lost.done():
            return
        self.came = len(data)
        try:
            self._frames.feed(data)
        except BadFrame as error:
            self.lose(f"the broker sends {error}")
        self.send_gathered()

    def _told(self, line: bytes) -> None:
        if line.startswith(b"PING"):
            self.send(b"PONG\r\n")
        elif line.startswith(b"PONG"):
            self._ponged()
        elif line.startswith(b"-ERR"):
            self._erred(line[4:].decode(errors="replace").strip().lower())
        elif not line.startswith((b"+OK", b"INFO ")):
            raise BadFrame("words that are not of its protocol")

    def _ponged(self) -> None:
        self._pings_outstanding = 0
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)

    def _erred(self, said: str) -> None:
        denial = _DENIED.search(said)
        if denial is not None:
            self._denied(Denial(denial[1], denial[2], denial[3] or ""))
        else:
            self.lose(f"the broker says {said}")

    async def round_trip(self) -> None:
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.lost.done():
            raise BusError(f"the connection to the broker broke: {self.lost.result()}")
        self.send_gathered()
        await self._send_ping(pong)
        await asyncio.wait((pong,))
        if pong.cancelled():
            raise BusError(f"the connection to the broker broke: {self.lost.result()}")

    async def abort(self) -> None:
        self.lose("hung up")
        self._status = Client.CLOSED
        tasks = [t for t in (self._reading_task, self._ping_interval_task, self._flusher_task) if t is not None]
        for task in tasks:
            task.cancel()
        if self._transport:
            self.stream_writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _select_next_server(self) -> None:
        self._current_server = self._server_pool[0]
        await self._connect_to_server(self._current_server)

    def _connect_command(self) -> bytes:
        problem = self._distrust()
        if problem:
            raise LinkError(f"{problem}; nothing secret was sent", FailureCode.UNAUTHENTICATED, final=True)
        command: bytes = super()._connect_command()
        return command

    def _distrust(self) -> str:
        """Return why the server must not see our credentials; empty if it may."""
        where = self._address.shown
        if self._address.wants_tls and not self._server_info.get("tls_required"):
            return f"the broker at {where} offers no TLS, but bus.url or bus.tls asks for it"
        protocol = self.stream_writer.transport.get_protocol()
        if self._address.wants_tls and isinstance(protocol, asyncio.StreamReaderProtocol):
            setattr(protocol, "_over_ssl", True)  # noqa: B010 - nats-py does not set it, and warns at a refusal
        if not self._address.is_trusted(self.stream_writer.get_extra_info("ssl_object")):
            return (
                f"what answers at {where} is not the broker that was named: its certificate is another one. Where that "
                "broker was set up anew, `twd token add` there lets this machine join again"
            )
        return ""

    async def _read_loop(self) -> None:
        """Replace nats-py's reader as soon as its buffer is empty."""
        try:
            data = await self._transport.read(_EVERYTHING)
        except OSError as error:
            self.lose(str(error))
            return
        transport = self.stream_writer.transport
        transport.set_protocol(_Reading(self, transport.get_protocol()))
        self.take(data)
        if self._transport.at_eof() or transport.is_closing():
            self.lose(_CLOSED)

    async def _process_op_err(self, e: Exception) -> None:
        self.lose(str(e) or type(e).__name__)


class _Reading(asyncio.Protocol):
    """Passes received data to the client at once; all other callbacks go to the protocol from before."""

    def __init__(self, client: _Client, before: asyncio.BaseProtocol) -> None:
        self._before = before
        self._client = client
        self.data_received = client.take  # type: ignore[method-assign]
        self.pause_writing = before.pause_writing  # type: ignore[method-assign]
        self.resume_writing = before.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, error: Exception | None) -> None:
        self._client.lose(str(error or _CLOSED))
        self._before.connection_lost(error)
