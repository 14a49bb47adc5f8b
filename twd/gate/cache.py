"""A cache of the target's scores: the same answer to the same request is not scored again. Pure."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from twd.wire.job import JobFinished, JobSubmitted, TokensAccepted

VERDICTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of one answer."""

    pieces: tuple[TokensAccepted, ...]
    finished: JobFinished


class Cache:
    """The latest scores; the least recently used ones are removed."""

    def __init__(self, most: int = VERDICTS_MAX) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Scored] = OrderedDict()
        self.hits = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes) -> Scored | None:
        """The scores of the same answer, or None."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.hits += 1
        return found

    def keep(self, key: bytes, scored: Scored) -> None:
        """Store scores."""
        self._kept[key] = scored
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


def key_of(job: JobSubmitted, target: str, target_is: str) -> bytes:
    """A hash of the request, its sampling parameters, the judged text and the identity of the model."""
    told = (target, target_is, job.prompt, job.sampling, job.stop, job.max_tokens, job.judge, job.resume)
    return sha256(msgspec.json.encode(told)).digest()
