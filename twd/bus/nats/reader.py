"""Parses what a broker sends: messages, and the protocol lines between them. No I/O."""

from collections.abc import Callable
from typing import Final

LINE_BYTES_MAX: Final = 1024 * 1024
"""The INFO line of a cluster names all its servers."""
FRAME_BYTES_MAX: Final = 65 * 1024 * 1024
"""No server can be configured to accept more bytes in one message."""

Deliver = Callable[[int, bytes, bytes, bytes, bytes | None], None]
"""Called with subscription number, subject, reply, payload and raw headers of each message."""


class BadFrame(ValueError):
    """Received data that does not follow the NATS protocol."""


class NatsFrameReader:
    """Splits a stream of bytes into messages and other lines, and passes them on in order."""

    def __init__(self, deliver: Deliver, told: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self._told = told
        self._rest = bytearray()
        self._needed = 0
        """Bytes that must be there before the next try to parse."""

    def feed(self, data: bytes) -> None:
        """Parse received bytes, however they are split; raises BadFrame for invalid data."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at = self._needed = 0
        while at < len(data):
            after = self._frame(data, at)
            if not after:
                self._rest += data[at:]
                return
            at = after

    def _frame(self, data: bytes, at: int) -> int:
        """Pass on the frame at `at`; returns where the next one begins, or 0 if this one is not complete yet."""
        end = data.find(b"\r\n", at)
        if end < 0:
            if len(data) - at > LINE_BYTES_MAX:
                raise BadFrame("a line without an end")
            return 0
        line = data[at:end]
        if line.startswith(b"MSG "):
            return self._message(data, at, end + 2, line[4:].split(), headed=False)
        if line.startswith(b"HMSG "):
            return self._message(data, at, end + 2, line[5:].split(), headed=True)
        self._told(line)
        return end + 2

    def _message(self, data: bytes, at: int, body: int, words: list[bytes], *, headed: bool) -> int:
        try:
            size = int(words.pop())
            head = int(words.pop()) if headed else 0
            subject, number = words[0], int(words[1])
            reply = words[2] if len(words) == 3 else b""
        except (ValueError, IndexError):
            raise BadFrame("a message without its sizes") from None
        if len(words) > 3 or not 0 <= head <= size <= FRAME_BYTES_MAX:
            raise BadFrame("a message of impossible sizes")
        after = body + size + 2
        if after > len(data):
            self._needed = after - at
            return 0
        if data[after - 2 : after] != b"\r\n":
            raise BadFrame("a message without an end")
        headers = data[body : body + head] if headed else None
        self._deliver(number, subject, reply, data[body + head : after - 2], headers)
        return after
