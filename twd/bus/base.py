"""The interface of every bus; payloads are bytes."""

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
    """The bus could not do what was asked; `final`: another try would fail in the same way."""

    final = True

    def __init__(self, message: str, code: FailureCode = FailureCode.BUS_DOWN) -> None:
        super().__init__(code, message)


class NoResponders(BusError):
    """Nobody listens on the subject of a request; known without waiting."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}", FailureCode.NOBODY_HOME)


class RequestTimeout(BusError):
    """Somebody listens, but no answer came in time."""

    def __init__(self, subject: str, timeout_s: float) -> None:
        super().__init__(f"no answer on {subject} within {timeout_s:g} s", FailureCode.DEADLINE)


class TooLarge(BusError):
    """A message that is too large for the broker."""

    def __init__(self, subject: str, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes on {subject} is over the limit of {limit}", FailureCode.TOO_LARGE)
        self.size = size
        self.limit = limit


class BusMessage(msgspec.Struct):
    """One received message; `reply` is the subject for an answer, or empty."""

    subject: str
    data: bytes
    reply: str = ""


Handler = Callable[[BusMessage], None]
"""Called on the event loop, one message at a time and in order; it must not block."""


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """One subscription. Members of one `queue` share the messages; at most `limit` messages wait."""

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
        """Unsubscribe; queued messages are dropped."""


class Leases(Protocol):
    """A small registry of keys that expire when they are not renewed: which processes are there now."""

    async def put(self, key: str, value: bytes) -> int:
        """Write or renew a key; returns its revision."""

    async def create(self, key: str, value: bytes) -> int | None:
        """Write a key that must not exist; returns its revision, or None when somebody else holds it."""

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Renew a claim; returns the new revision, or None when the key has changed since `revision`."""

    async def delete(self, key: str) -> None:
        """Delete a key."""

    async def get(self, key: str) -> LeaseEntry | None:
        """Return one live key, or None."""

    async def entries(self) -> list[LeaseEntry]:
        """Return all live keys."""


class Bus(Protocol):
    """A message bus with at-most-once delivery, in order from one sender to one reader, across its subscriptions."""

    stats: BusStats

    def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Send to everybody who listens now. Returns at once; a bounded outbox holds what waits."""

    def push(self) -> None:
        """Send now what was published in this turn of the event loop; else it is sent at the end of the turn."""

    async def subscribe(
        self,
        pattern: str,
        handler: Handler,
        *,
        queue: str = "",
        limit: int = 65536,
        when_full: WhenFull = WhenFull.DROP_NEWEST,
    ) -> Subscription:
        """Subscribe; see `SubscriptionOptions`."""

    async def subscribe_all(self, hearings: Sequence[SubscriptionOptions]) -> list[Subscription]:
        """Subscribe to all of these in one round trip to the broker; if one is refused, to none."""

    async def request(self, subject: str, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Ask and wait for one answer; raises NoResponders or RequestTimeout."""

    def inquire(
        self, subject: str, data: bytes, answered: Callable[[bytes | BusError], None], *, timeout_s: float = 5.0
    ) -> None:
        """Like `request` without a task: calls `answered` once, on the loop, with the answer or the error.

        A message that cannot be sent at all raises a BusError at once, as `publish` does.
        """

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when everything sent so far has reached the broker."""

    async def leases(self, bucket: str, ttl_s: float) -> Leases:
        """Open a lease registry whose keys expire `ttl_s` seconds after their last renewal."""

    @property
    def connected(self) -> bool:
        """Whether messages can travel now."""

    def on_back(self, listener: Callable[[], None]) -> None:
        """Call this whenever the connection is there again after it was lost. What was sent meanwhile may be lost."""

    async def close(self) -> None:
        """Drain: handle queued messages, then disconnect. May be called twice."""


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject matches; `*` is one token, a last `>` is one or more."""
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
    """Raise BusError for a subject that NATS would refuse or misread."""
    if not _is_subject(subject):
        raise BusError(f"{subject!r} is no subject to publish on", FailureCode.INTERNAL)


def check_pattern(pattern: str, queue: str = "") -> None:
    """Raise BusError for a pattern or queue name that NATS would refuse or misread."""
    if _PATTERN.fullmatch(pattern) is None:
        raise BusError(f"{pattern!r} is no pattern to listen on", FailureCode.INTERNAL)
    if _QUEUE.fullmatch(queue) is None:
        raise BusError(f"{queue!r} is no name for a queue group", FailureCode.INTERNAL)


def check_key(key: str) -> None:
    """Raise BusError for a key that a lease registry cannot hold."""
    if _KEY.fullmatch(key) is None:
        raise BusError(f"{key!r} is no key of a lease registry", FailureCode.INTERNAL)


def check_size(subject: str, data: bytes, limit: int = PAYLOAD_BYTES_MAX) -> None:
    """Raise TooLarge for a message over the limit in bytes."""
    if len(data) > limit:
        raise TooLarge(subject, len(data), limit)


def inbox_of(name: str) -> str:
    """Return the subject prefix for answers to the client `<role>.<machine>`."""
    role, _, rest = name.partition(".")
    return f"{INBOX_PREFIX}.{subject_token(role)}.{subject_token(rest.split('.')[0])}"


def safe_reply(reply: str) -> str:
    """Return the reply subject if it is an inbox, else empty, so that nobody can direct our answers elsewhere."""
    return reply if reply.startswith(INBOX_PREFIX) and _SUBJECT.fullmatch(reply) else ""
