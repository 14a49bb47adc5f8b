"""The lease registry for a broker with permissions by role: leases are heard as messages, not looked up.

A JetStream read makes the broker publish the value on any subject that the reader names, so no role may read. Leases
are messages; each reader remembers them until they expire. A new reader publishes a roll call, and all holders publish
their leases again. Only claims, which one process holds at a time, are stored by the broker: one key each, in a bucket
that is made once, with the admin's key.
"""

import asyncio
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from twd.bus.base import BusError, BusMessage, LeaseEntry, NoResponders, check_key
from twd.bus.nats.leases import DELETION, LEASE_BYTES_MAX, TIMEOUT_S, WRONG_REVISION, NatsLeases, read_reply
from twd.wire.failures import FailureCode
from twd.wire.routes import WhenFull

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus

ROLL_CALL: Final = "twd.registry.wanted"
"""On this subject a reader asks all holders to publish their leases again (roll call)."""
CLAIMS: Final = "_claims"
"""The suffix of the name of the bucket for claims."""
SETTLE_S: Final = 0.3
"""Seconds to wait for the answers to a roll call."""
RETELL_S: Final = 0.2
"""At least this many seconds between two answers to roll calls."""
SILENCE_S: Final = 3.5
"""A claim may be taken if its holder did not answer roll calls for so many seconds; holders renew sooner."""
KEYS_MAX: Final = 256
"""The most remembered keys of one role on one machine, so that nobody can crowd out the others."""
TRIES: Final = 4
FORGOTTEN_AFTER: Final = "1s"
"""The broker forgets the mark of a deletion then: the next one to claim the key need not wait for a silent holder."""
_ACKNOWLEDGEMENT: Final = b'{"stream":'
"""The beginning of an acknowledgement, which a writer can let the broker send to any subject; no lease begins so."""
_LAST: Final = re.compile(r"sequence: (\d+)")


class FollowedLeases:
    """One registry; satisfies the Leases protocol."""

    def __init__(self, bus: "NatsBus", bucket: str, ttl_s: float) -> None:
        self._bus = bus
        self._prefix = f"$KV.{bucket}."
        self._claims = f"$KV.{bucket}{CLAIMS}."
        self._ttl_s = ttl_s
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._revisions: dict[str, int] = {}
        """The last revision of each claim that the broker reported."""
        self._own: dict[str, bytes] = {}
        self._doubted: set[str] = set()
        """Own claims that another process may have taken. They are not told: our own word proves nothing."""
        self._answers_calls = False
        self._called_again = False
        self._retelling: asyncio.TimerHandle | None = None
        self._follows_since = -1
        """The number of reconnects at the last roll call; -1: there was none yet."""
        self._turn = asyncio.Lock()

    async def put(self, key: str, value: bytes) -> int:
        """Publish or renew a lease."""
        check_key(key)
        self._own[key] = bytes(value)
        await self._answer_roll_calls()
        self._tell(key, value)
        return 0

    async def create(self, key: str, value: bytes) -> int | None:
        """Claim a key that nobody holds; returns its revision, or None."""
        revision = await self._write_after(key, value, 0)
        if revision is not None or await self._is_held(key):
            return revision
        for _ in range(TRIES):
            revision = await self._write_after(key, value, self._revisions[key])
            if revision is not None or await self.get(key) is not None:
                return revision
        return await self._write_after(key, value, None)  # the key changes again and again, but no holder answers

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Renew a claim, or take it from the holder who had it at `revision`; returns the new revision, or None.

        Anybody can let the broker send an acknowledgement to the claim's key, which changes its revision. The claim
        stays ours as long as no other holder is heard.
        """
        renewed = await self._write_after(key, value, revision)
        for _ in range(TRIES):
            if renewed is not None:
                return renewed
            if not await self._is_ours(key):
                self._own.pop(key, None)
                return None
            renewed = await self._write_after(key, value, self._revisions[key])
        return renewed or await self._write_after(key, value, None)

    async def _is_ours(self, key: str) -> bool:
        """Return whether this process claimed the key and no other process says now that it holds it."""
        ours = self._own.get(key)
        if ours is None:
            return False
        self._doubted.add(key)
        try:
            await self._settle()
            if self._holder_is(key, ours):
                await self._call_the_roll()
            return self._holder_is(key, ours)
        finally:
            self._doubted.discard(key)

    def _holder_is(self, key: str, value: bytes) -> bool:
        return self._seen.get(key, (value, 0.0))[0] == value

    async def delete(self, key: str) -> None:
        """Delete a key."""
        check_key(key)
        self._own.pop(key, None)
        self._tell(key, b"")
        if key in self._revisions:
            reply = await self._ask(key, b"", {**DELETION, "Nats-TTL": FORGOTTEN_AFTER})
            if "error" in reply:  # a bucket that was made before its messages could have a lifetime
                await self._ask(key, b"", DELETION)

    async def get(self, key: str) -> LeaseEntry | None:
        """Return one live key, or None."""
        check_key(key)
        return next((entry for entry in await self.entries() if entry.key == key), None)

    async def entries(self) -> list[LeaseEntry]:
        """Return all live keys."""
        await self._settle()
        now = _now()
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen[1] < self._ttl_s}
        return [
            LeaseEntry(key, value, self._revisions.get(key, 0), now - heard)
            for key, (value, heard) in sorted(self._seen.items())
        ]

    # -- leases ----------------------------------------------------------------------------------

    def _tell(self, key: str, value: bytes) -> None:
        self._bus.publish(f"{self._prefix}{key}", value)
        self._remember(key, value)

    async def _answer_roll_calls(self) -> None:
        if not self._answers_calls:
            self._answers_calls = True
            await self._bus.subscribe(ROLL_CALL, self._called, limit=1)

    def _called(self, message: BusMessage) -> None:
        self._called_again = self._retelling is not None
        if not self._called_again:
            self._retell()

    def _retell(self) -> None:
        self._retelling = asyncio.get_running_loop().call_later(RETELL_S, self._let_retell)
        for key in self._own.keys() - self._doubted:
            self._tell(key, self._own[key])

    def _let_retell(self) -> None:
        """Answer a roll call that came too early: its reader may have come after the last answer."""
        self._retelling = None
        if self._called_again and self._bus.connected:
            self._retell()
        self._called_again = False

    def _hear(self, message: BusMessage) -> None:
        self._remember(message.subject[len(self._prefix) :], message.data)

    def _remember(self, key: str, value: bytes) -> None:
        if not value:
            self._seen.pop(key, None)
        elif value.startswith(_ACKNOWLEDGEMENT):
            return
        elif len(value) <= LEASE_BYTES_MAX and (key in self._seen or self._has_room(key)):
            self._seen[key] = (bytes(value), _now())

    def _has_room(self, key: str) -> bool:
        return Counter(map(_holder, self._seen))[_holder(key)] < KEYS_MAX

    async def _settle(self) -> None:
        """Subscribe at the first call; after each new connection, publish a roll call and wait for the answers."""
        async with self._turn:
            if not self._bus.connected:
                raise BusError("the bus is away")
            if self._follows_since == self._bus.stats.reconnects:
                return
            if self._follows_since < 0:
                await self._bus.subscribe(f"{self._prefix}>", self._hear, when_full=WhenFull.DROP_OLDEST)
            self._follows_since = self._bus.stats.reconnects
            await self._call_the_roll()

    async def _call_the_roll(self) -> None:
        self._bus.publish(ROLL_CALL, b"")
        await asyncio.sleep(SETTLE_S)

    # -- claims ----------------------------------------------------------------------------------

    async def _is_held(self, key: str) -> bool:
        """Return whether a holder of this claim answers a roll call."""
        give_up = _now() + SILENCE_S
        while await self.get(key) is None:
            if _now() >= give_up:
                return False
            await self._call_the_roll()
        return True

    async def _write_after(self, key: str, value: bytes, revision: int | None) -> int | None:
        """Write a claim; returns the new revision, or None when the broker's revision is not `revision` (if given)."""
        expected = {} if revision is None else {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        reply = await self._ask(key, value, expected)
        error = reply.get("error")
        if error is None:
            self._revisions[key] = int(reply["seq"])
            await self.put(key, value)
            return self._revisions[key]
        if error.get("err_code") not in WRONG_REVISION:
            raise BusError(f"the broker's registry says of the claim {key}: {error.get('description', error)}")
        last = _LAST.search(str(error.get("description", "")))
        self._revisions[key] = int(last[1]) if last else 0
        return None

    async def _ask(self, key: str, value: bytes, headers: dict[str, str]) -> dict[str, Any]:
        check_key(key)
        try:
            answer = await self._bus.ask(f"{self._claims}{key}", value, headers=headers, timeout_s=TIMEOUT_S)
        except NoResponders:
            text = "the broker has no bucket for claims; make it once with the admin's key: deploy/nats/make_buckets.py"
            raise BusError(text, FailureCode.UNSUPPORTED) from None
        return read_reply(answer)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _holder(key: str) -> str:
    """Return the role and machine of the holder of a key."""
    return ".".join(key.split(".", 2)[:2])


async def make_claims(bus: "NatsBus", bucket: str, ttl_s: float) -> int:
    """Make or update the bucket for claims; returns the number of its copies."""
    return await NatsLeases(bus, f"{bucket}{CLAIMS}", ttl_s).make("file")
