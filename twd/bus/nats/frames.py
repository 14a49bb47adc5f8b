"""The frames of the NATS protocol that the bus writes and reads itself."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

_HEADER_LINE = "NATS/1.0"


@dataclass(frozen=True, slots=True)
class StatusReply:
    """An answer with its status (`503`: nobody listens) and headers, if any."""

    data: bytes
    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, data: bytes, raw_headers: bytes | None) -> "StatusReply":
        """Return the answer with parsed headers; lines that are no headers are ignored."""
        if not raw_headers:
            return cls(data)
        first, *lines = raw_headers.decode(errors="replace").split("\r\n")
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        status = first[len(_HEADER_LINE) :].split()
        return cls(data, status[0] if status else "", {name.strip(): value.strip() for name, value in pairs})


def publish_frame(subject: str, reply: str, data: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return a PUB frame, or HPUB if there are headers."""
    if not headers:
        return b"%b%b\r\n" % (f"PUB {subject} {reply} {len(data)}\r\n".encode(), data)
    block = "".join([f"{_HEADER_LINE}\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"])
    head = block.encode()
    line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n".encode()
    return b"".join((line, head, data, b"\r\n"))


def subscribe_frame(pattern: str, queue: str, number: int) -> bytes:
    """Return a SUB frame."""
    return f"SUB {pattern} {queue} {number}\r\n".encode()


def unsubscribe_frame(number: int) -> bytes:
    """Return an UNSUB frame."""
    return f"UNSUB {number}\r\n".encode()


def read_time(text: str) -> float:
    """Return a time stamp of the server, with nine decimals, as seconds since 1970."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return seconds + (float(f"0.{rest}") if rest.isdigit() else 0.0)
