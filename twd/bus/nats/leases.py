"""The lease registry on NATS: a key-value bucket in the broker's memory, whose keys expire.

The bucket is a JetStream stream `KV_<bucket>` over `$KV.<bucket>.>`, so that `nats kv ls` shows it. Its owners write
everything again, so a broker that lost it gets a new one with the next write. Ages are measured with the broker's clock
only: the clocks of the machines need not agree.
"""

import asyncio
import contextlib
import json
import re
import time
from typing import TYPE_CHECKING, Any, Final

from twd.bus.base import BusError, LeaseEntry, NoResponders, RequestTimeout, check_key
from twd.bus.nats.frames import StatusReply, read_time
from twd.wire.failures import FailureCode

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus

TIMEOUT_S: Final = 3.0
LEASE_BYTES_MAX: Final = 512 * 1024
"""The most bytes of one value; a machine with many model files needs the most."""
BUCKET_BYTES_MAX: Final = 16 * 1024 * 1024
REPLICAS_IN_CLUSTER: Final = 3
MORE_COPIES_EVERY_S: Final = 5.0
WRONG_REVISION: Final = (10071, 10164)
"""Codes of the broker: the last revision is not the expected one."""
DELETION: Final = {"KV-Operation": "DEL"}
"""The header of the mark of a deletion."""
_EXISTS_OTHERWISE: Final = 10058
_NO_SUCH_STREAM: Final = 10059
_GONE: Final = ("DEL", "PURGE")
_BUCKET = re.compile(r"[A-Za-z0-9_-]+")


class NatsLeases:
    """One bucket; satisfies the Leases protocol."""

    def __init__(self, bus: "NatsBus", bucket: str, ttl_s: float) -> None:
        if _BUCKET.fullmatch(bucket) is None:
            raise BusError(f"{bucket!r} is no name for a lease registry", FailureCode.INTERNAL)
        self._bus = bus
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._ttl_s = ttl_s
        self._broker_clock: float | None = None  # the broker's time minus our monotonic time, in seconds
        self.copies = 0  # number of copies of the bucket in the cluster, once known
        self._makes_it = False
        self._storage = "memory"
        self._next_try = 0.0

    async def put(self, key: str, value: bytes) -> int:
        """Write or renew a key."""
        revision = await self._write(key, value, {})
        assert revision is not None
        return revision

    async def create(self, key: str, value: bytes) -> int | None:
        """Claim a key that does not exist, was given up or has expired; returns its revision, or None."""
        revision = await self._write_after(key, value, 0)
        if revision is not None:
            return revision
        if await self.get(key) is not None:
            return None
        last = await self._last(key)
        return await self._write_after(key, value, _revision(last) if last else 0)

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Renew a claim."""
        return await self._write_after(key, value, revision) if revision > 0 else None

    async def delete(self, key: str) -> None:
        """Delete a key."""
        await self._write(key, b"", DELETION)

    async def get(self, key: str) -> LeaseEntry | None:
        """Read one live key."""
        check_key(key)
        if self._broker_clock is None and await self._info() is None:
            return None
        last = await self._last(key)
        return None if last is None else self._alive(last)

    async def entries(self) -> list[LeaseEntry]:
        """Read all live keys."""
        info = await self._info()
        if info is None:
            return []
        subjects: dict[str, int] = info.get("state", {}).get("subjects") or {}
        found = await asyncio.gather(*(self._last(subject[len(self._prefix) :]) for subject in sorted(subjects)))
        return [entry for last in found if last is not None and (entry := self._alive(last)) is not None]

    # -- writing -------------------------------------------------------------------------------

    async def _write_after(self, key: str, value: bytes, revision: int) -> int | None:
        return await self._write(key, value, {"Nats-Expected-Last-Subject-Sequence": str(revision)})

    async def _write(self, key: str, value: bytes, headers: dict[str, str]) -> int | None:
        """Return the new revision, or None when the expected one is not the last."""
        subject = self._subject(key)
        try:
            answer = await self._bus.ask(subject, value, headers=headers, timeout_s=TIMEOUT_S)
        except NoResponders:
            await self._make_bucket()
            answer = await self._bus.ask(subject, value, headers=headers, timeout_s=TIMEOUT_S)
        reply = read_reply(answer)
        error = reply.get("error")
        if error is None:
            await self._add_copies()
            return int(reply["seq"])
        if error.get("err_code") in WRONG_REVISION:
            return None
        raise self._error(error)

    async def make(self, storage: str) -> int:
        """Make or update the bucket, with the admin's key; returns the number of its copies."""
        self._storage = storage
        await self._make_bucket()
        with contextlib.suppress(BusError):  # fewer than three are up
            await self._set_up("UPDATE", REPLICAS_IN_CLUSTER if self._bus.clustered else 1)
        return self.copies

    async def _make_bucket(self) -> None:
        self._makes_it = True
        wanted = REPLICAS_IN_CLUSTER if self._bus.clustered else 1
        try:
            await self._set_up("CREATE", wanted)
        except RequestTimeout:
            raise  # the cluster has no leader yet; it may still be able to hold all copies
        except BusError:
            if wanted == 1:
                raise
            await self._set_up("CREATE", 1)  # fewer than three servers are up

    async def _add_copies(self) -> None:
        """Add copies later to a bucket that was made with one copy, before all servers of the cluster were up."""
        full = self.copies >= REPLICAS_IN_CLUSTER or not self._bus.clustered
        if full or not self._makes_it or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + MORE_COPIES_EVERY_S
        with contextlib.suppress(BusError):
            await self._set_up("UPDATE", REPLICAS_IN_CLUSTER)

    async def _set_up(self, verb: str, copies: int) -> None:
        window_ns = int(self._ttl_s * 1e9)
        wanted = {
            "name": self._stream,
            "subjects": [f"{self._prefix}>"],
            "storage": self._storage,
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_age": window_ns,
            "duplicate_window": window_ns,
            "num_replicas": copies,
            "allow_direct": True,
            "allow_rollup_hdrs": False,
            "deny_delete": True,
            "deny_purge": True,
            "allow_msg_ttl": True,
            "max_msg_size": LEASE_BYTES_MAX,
            "max_bytes": BUCKET_BYTES_MAX if self._storage == "file" else -1,
        }
        reply = await self._api(f"STREAM.{verb}", wanted)
        if reply is None:
            raise BusError("the broker has no JetStream; switch it on in its configuration", FailureCode.UNSUPPORTED)
        self.copies = int(reply.get("config", {}).get("num_replicas", 0))

    # -- reading -------------------------------------------------------------------------------

    async def _last(self, key: str) -> StatusReply | None:
        """Return the newest message of a key; it may be the mark of a deletion."""
        subject = f"$JS.API.DIRECT.GET.{self._stream}.{self._subject(key)}"
        try:
            answer = await self._bus.ask(subject, b"", timeout_s=TIMEOUT_S)
        except NoResponders:
            return None
        return answer if "Nats-Sequence" in answer.headers else None

    def _alive(self, last: StatusReply) -> LeaseEntry | None:
        now = time.monotonic() + (self._broker_clock or 0.0)
        age_s = max(0.0, now - read_time(last.headers["Nats-Time-Stamp"]))
        if last.headers.get("KV-Operation") in _GONE or age_s >= self._ttl_s:
            return None
        key = last.headers["Nats-Subject"][len(self._prefix) :]
        return LeaseEntry(key, last.data, _revision(last), age_s)

    async def _info(self) -> dict[str, Any] | None:
        return await self._api("STREAM.INFO", {"subjects_filter": f"{self._prefix}>"})

    # -- the API -------------------------------------------------------------------------------

    def _subject(self, key: str) -> str:
        check_key(key)
        return f"{self._prefix}{key}"

    async def _api(self, verb: str, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """Send one request to JetStream; returns its reply, or None when there is no such bucket."""
        body = json.dumps(wanted).encode()
        try:
            answer = await self._bus.ask(f"$JS.API.{verb}.{self._stream}", body, timeout_s=TIMEOUT_S)
        except NoResponders:
            return None
        reply = read_reply(answer)
        error = reply.get("error")
        if "ts" in reply:
            self._broker_clock = read_time(reply["ts"]) - time.monotonic()
        if error is None or error.get("err_code") == _EXISTS_OTHERWISE:
            return reply
        if error.get("err_code") == _NO_SUCH_STREAM:
            return None
        raise self._error(error)

    def _error(self, error: dict[str, Any]) -> BusError:
        return BusError(f"the broker's registry {self._stream} says: {error.get('description', error)}")


def _revision(message: StatusReply) -> int:
    return int(message.headers["Nats-Sequence"])


def read_reply(answer: StatusReply) -> dict[str, Any]:
    """Read what the broker answers to a write or a call of its API."""
    try:
        reply: dict[str, Any] = json.loads(answer.data)
    except ValueError:
        raise BusError("the broker's registry answers in no language that we know") from None
    return reply
