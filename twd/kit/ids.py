"""Makes new ids, from one source of randomness that a simulation can seed."""

import random
import re
import uuid

from twd.wire.base import EventId, InstanceId, JobId, NodeId, SessionId

_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyz"
"""32 characters, five bits each."""


class Ids:
    """Makes ids; give it a seeded `random.Random` to make the same ones again."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = source or random.SystemRandom()
        self._prefix = self._word(6)
        self._count = 0

    def _word(self, length: int) -> str:
        bits = self._random.getrandbits(5 * length)
        return "".join([_ALPHABET[bits >> 5 * place & 31] for place in range(length)])

    def event(self) -> EventId:
        """Return a new event id: a random prefix and a counter."""
        self._count += 1
        return EventId(f"{self._prefix}{self._count}")

    def job(self) -> JobId:
        """Return a new job id that people can read and that fits into a subject."""
        return JobId(f"job-{self._word(12)}")

    def session(self) -> SessionId:
        """Return a new session id."""
        return SessionId(f"s-{self._word(12)}")

    def instance(self, service: str, node: NodeId) -> InstanceId:
        """Return the id of one running copy of a service."""
        return InstanceId(f"{service}.{node}.{self._word(6)}")

    def seed(self) -> int:
        """Return a seed for a job without one."""
        return self._random.getrandbits(31)

    def secret(self) -> str:
        """Return a random token that cannot be guessed."""
        return uuid.uuid4().hex + uuid.uuid4().hex


def node_id(hostname: str) -> NodeId:
    """Return a host name as a node id: lower case, first label only."""
    return NodeId(re.sub(r"[^A-Za-z0-9-]", "-", hostname.split(".")[0]).strip("-").lower() or "node")
