"""What every bus can do, whatever carries it. Bytes go in, bytes come out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from twd.wire.codec import MAX_MESSAGE_BYTES
from twd.wire.failures import FailureCode, TwdError
from twd.wire.names import subject_token
from twd.wire.routes import WhenFull

PAYLOAD_BYTES_MAX: Final = MAX_MESSAGE_BYTES
INBOX_PREFIX: Final = "_INBOX"


class BusError(TwdError):
    """The bus could not do what was asked."""

    def __init__(self, message: str, code: FailureCode = FailureCode.BUS_DOWN) -> None:
        super().__init__(code, message)


class NoResponders(BusError):
    """Nobody listens on the subject of a request: known at once, without waiting."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}", FailureCode.NOBODY_HOME)


class RequestTimeout(BusError):
    """Somebody listens, but no answer came in time."""

    def __init__(self, subject: str, timeout_s: float) -> None:
        super().__init__(f"no answer on {subject} within {timeout_s:g} s", FailureCode.DEADLINE)


class TooLarge(BusError):
    """A message that the broker does not take, because of its size."""

    def __init__(self, subject: str, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes on {subject} is over the limit of {limit}", FailureCode.TOO_LARGE)
        self.size = size
        self.limit = limit


class BusMessage(msgspec.Struct):
    """One message as it came; `reply` names where an answer is expected, if one is."""

    subject: str
    data: bytes
    reply: str = ""


Handler = Callable[[BusMessage], None]
"""Called on the loop, one message at a time and in order; it must not block."""


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """What to listen to. Members of one `queue` share the messages; at most `limit` of them wait."""

    pattern: str
    handler: Handler
    queue: str = ""
    limit: int = 65536
    when_full: WhenFull = WhenFull.DROP_NEWEST


@dataclass(slots=True)
class BusStats:
    """Counters since the connection was made."""

    sent: int = 0
    received: int = 0
    dropped: int = 0
    reconnects: int = 0
    errors: int = 0
    last_error: str = ""
    dropped_by_subject: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """One key of the lease registry."""

    key: str
    value: bytes
    revision: int
    age_s: float


class Subscription(Protocol):
    """An open subscription."""

    async def close(self) -> None:
        """Hear nothing more from now on; what is queued is thrown away."""


class Leases(Protocol):
    """A small registry whose keys vanish when they are not renewed: who is there now."""

    async def put(self, key: str, value: bytes) -> int:
        """Write or renew a key; returns its revision."""

    async def create(self, key: str, value: bytes) -> int | None:
        """Claim a key that must not exist; None when somebody else holds it."""

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Renew a claim; None when the key changed hands since `revision`."""

    async def delete(self, key: str) -> None:
        """Give a key up."""

    async def get(self, key: str) -> LeaseEntry | None:
        """Read one live key."""

    async def entries(self) -> list[LeaseEntry]:
        """Read all live keys."""


class Bus(Protocol):
    """A message bus: at most once; from one sender to one reader in order, across its subscriptions."""

    stats: BusStats

    def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Send to everybody who listens now. Returns at once; a bounded outbox holds what waits."""

    def push(self) -> None:
        """Let go now what was published in this turn of the loop; else it goes at the turn's end."""

    async def subscribe(
        self,
        pattern: str,
        handler: Handler,
        *,
        queue: str = "",
        limit: int = 65536,
        when_full: WhenFull = WhenFull.DROP_NEWEST,
    ) -> Subscription:
        """Listen; see `SubscriptionOptions`."""

    async def subscribe_all(self, hearings: Sequence[SubscriptionOptions]) -> list[Subscription]:
        """Listen to several things, with one way to the broker; where one of them is refused, to none."""

    async def request(self, subject: str, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Ask and wait for one answer; raises NoResponders or RequestTimeout."""

    def inquire(
        self, subject: str, data: bytes, answered: Callable[[bytes | BusError], None], *, timeout_s: float = 5.0
    ) -> None:
        """`request` without a task: `answered` is called once, on the loop, with the answer or why none came.

        What cannot be sent at all raises a BusError at once, as `publish` does.
        """

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when everything sent so far has reached the broker."""

    async def leases(self, bucket: str, ttl_s: float) -> Leases:
        """Open a lease registry whose keys live `ttl_s` without being renewed."""

    @property
    def connected(self) -> bool:
        """Whether messages can travel now."""

    async def close(self) -> None:
        """Drain: deliver what is queued, then hang up. Closing twice is harmless."""


def matches(pattern: str, subject: str) -> bool:
    """NATS wildcards: `*` is one token, a last `>` is one or more."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given) > i
        if i >= len(given) or (token not in ("*", given[i])):
            return False
    return len(wanted) == len(given)


_SUBJECT = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_PATTERN = re.compile(r"(?:(?:[^\s.*>]+|\*)\.)*(?:[^\s.*>]+|\*|>)")
_QUEUE = re.compile(r"\S*")
_KEY = re.compile(r"[A-Za-z0-9_=/-]+(?:\.[A-Za-z0-9_=/-]+)*")


@lru_cache(4096)  # a job's tokens all go to the same few subjects
def _is_subject(subject: str) -> bool:
    return _SUBJECT.fullmatch(subject) is not None


def check_subject(subject: str) -> None:
    """Refuse a subject that NATS would refuse or misread."""
    if not _is_subject(subject):
        raise BusError(f"{subject!r} is no subject to publish on", FailureCode.INTERNAL)


def check_pattern(pattern: str, queue: str = "") -> None:
    """Refuse a pattern or queue name that NATS would refuse or misread."""
    if _PATTERN.fullmatch(pattern) is None:
        raise BusError(f"{pattern!r} is no pattern to listen on", FailureCode.INTERNAL)
    if _QUEUE.fullmatch(queue) is None:
        raise BusError(f"{queue!r} is no name for a queue group", FailureCode.INTERNAL)


def check_key(key: str) -> None:
    """Refuse a key that a lease registry cannot hold."""
    if _KEY.fullmatch(key) is None:
        raise BusError(f"{key!r} is no key of a lease registry", FailureCode.INTERNAL)


def check_size(subject: str, data: bytes, limit: int = PAYLOAD_BYTES_MAX) -> None:
    """Refuse a message that is too big for the broker."""
    if len(data) > limit:
        raise TooLarge(subject, len(data), limit)


def inbox_of(name: str) -> str:
    """Below this subject answers arrive for who is connected as `<role>.<machine>`."""
    role, _, rest = name.partition(".")
    return f"{INBOX_PREFIX}.{subject_token(role)}.{subject_token(rest.split('.')[0])}"


def safe_reply(reply: str) -> str:
    """The address for an answer, if it is an inbox: nobody may direct our answers anywhere else."""
    return reply if reply.startswith(INBOX_PREFIX) and _SUBJECT.fullmatch(reply) else ""
