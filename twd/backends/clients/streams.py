"""Splits incoming bytes into lines and server-sent events, with size limits."""

from typing import Final

LINE_BYTES_MAX: Final = 1 << 20


class TooLong(Exception):
    """A line or an event is longer than the limit."""


class LineSplitter:
    """Splits a byte stream into lines that end with LF, CRLF or CR."""

    def __init__(self, limit: int = LINE_BYTES_MAX) -> None:
        self._limit = limit
        self._rest = b""
        self._skip_lf = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without line ends."""
        if self._skip_lf and data[:1] == b"\n":
            data = data[1:]
        elif not data:
            return []
        lines = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._skip_lf = data[-1:] == b"\r"  # its LF may come with the next bytes
        self._rest = lines.pop()
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise TooLong(f"a line of more than {self._limit} bytes")
        return lines

    def rest(self) -> bytes:
        """The bytes after the last line end."""
        rest, self._rest = self._rest, b""
        return rest


class EventParser:
    """Reads the data of server-sent events; event names, ids and comments are ignored."""

    def __init__(self, limit: int = LINE_BYTES_MAX) -> None:
        self._lines = LineSplitter(limit)
        self._limit = limit
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that are complete now."""
        events = []
        for line in self._lines.feed(piece):
            if not line:
                events += self._flush()
            elif line == b"data":
                self._add(b"")
            elif line.startswith(b"data:"):
                self._add(line[6:] if line[5:6] == b" " else line[5:])
        return events

    def finish(self) -> list[bytes]:
        """The stream has ended: an event without its empty line counts if its data arrived."""
        line = self._lines.rest()
        if line.startswith(b"data:"):
            self._add(line[6:] if line[5:6] == b" " else line[5:])
        return self._flush()

    def _add(self, data: bytes) -> None:
        self._data.append(data)
        self._size += len(data) + 1
        if self._size > self._limit:
            raise TooLong(f"an event of more than {self._limit} bytes")

    def _flush(self) -> list[bytes]:
        if not self._data:
            return []
        data, self._data, self._size = b"\n".join(self._data), [], 0
        return [data]
