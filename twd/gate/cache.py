"""Verdicts on answers with the same words to the same request: they need not be scored again. Pure."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from twd.wire.job import JobFinished, JobSubmitted, TokensAccepted

VERDICTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Scored:
    """What the target told of an answer."""

    pieces: tuple[TokensAccepted, ...]
    finished: JobFinished


class Cache:
    """The latest verdicts; the oldest give way."""

    def __init__(self, most: int = VERDICTS_MAX) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Scored] = OrderedDict()
        self.hits = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes) -> Scored | None:
        """What was told of the same answer."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.hits += 1
        return found

    def keep(self, key: bytes, scored: Scored) -> None:
        """Remember it."""
        self._kept[key] = scored
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


def key_of(job: JobSubmitted, target: str, target_is: str) -> bytes:
    """The request, how it is drawn, and the text that is judged, by this very model."""
    told = (target, target_is, job.prompt, job.sampling, job.stop, job.max_tokens, job.judge, job.resume)
    return sha256(msgspec.json.encode(told)).digest()
