"""Which units are asked of whom, and when a source counts as silent. Numbers in, requests out; time is an argument."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Draw = Callable[[int], int]
"""A number below its argument, at random."""

SOURCES_MAX: Final = 16
"""So many are asked at the same time: few connections, and the quickest ones."""
RUN_MAX: Final = 32
"""Units in one request, at most."""
RUN_S: Final = 0.5
"""A request should take about so long."""
SILENT_S: Final = 2.0
"""After so long without a byte what was asked for is asked of somebody else, too."""
HUNG_S: Final = 15.0
"""After so long without a byte a request is given up."""
PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0
COPIES_MAX: Final = 2
"""Requests for the same unit at one time."""


@dataclass(eq=False)
class Request:
    """A run of units, asked of one source."""

    source: str
    first: int
    count: int
    began: float
    heard: float
    """When its last byte came."""
    done: int = 0
    """Units of it that came."""
    silent: bool = False

    @property
    def open(self) -> range:
        """The units that have not come yet."""
        return range(self.first + self.done, self.first + self.count)


@dataclass(eq=False)
class Known:
    """What is known of one source."""

    name: str
    have: Mask
    coming: Mask
    defines: bool = False
    most: int = 4
    near_s: float = 0.0
    """The round trip to it; 0: not measured."""
    pace: float = 0.0
    """Bytes a second of one request, lately."""
    failures: int = 0
    rests_until: float = 0.0
    requests: list[Request] = field(default_factory=list)

    def ready(self, now: float) -> bool:
        """Whether it can be asked at all."""
        return now >= self.rests_until and not any(request.silent for request in self.requests)


class Picker:
    """Decides for one file. All methods are quick: they are called for every unit that comes."""

    def __init__(
        self,
        units: int,
        unit_bytes: int,
        wanted: Iterable[int],
        draw: Draw,
        *,
        parallel: int = 4,
        known: Iterable[int] | None = None,
    ) -> None:
        """`known`: the units whose hash is known; None: all."""
        self.units, self.unit_bytes, self.parallel = units, unit_bytes, parallel
        self.sources: dict[str, Known] = {}
        self.banned: dict[str, str] = {}
        self._draw = draw
        self._missing = _mask(units, wanted)
        self._hashed = np.ones(units, bool) if known is None else _mask(units, known)
        self._holders = np.zeros(units, np.int32)
        """Sources that have a unit or fetch it now."""
        self._asked = np.zeros(units, np.int16)
        """Requests for a unit; those of silent sources do not count."""
        self._judged = np.zeros(units, bool)
        """Units that came, and are being hashed."""
        self.left = int(self._missing.sum())

    # -- what happens --------------------------------------------------------------------------

    def join(self, name: str, *, defines: bool = False, most: int = 4, near_s: float = 0.0) -> None:
        """A source may be asked from now on, as soon as it told what it has."""
        if name not in self.sources and name not in self.banned:
            nothing = np.zeros(self.units, bool)
            self.sources[name] = Known(name, nothing, nothing.copy(), defines, most, near_s)

    def leave(self, name: str) -> None:
        """A source is gone."""
        source = self.sources.pop(name, None)
        if source is not None:
            for request in list(source.requests):
                self._forget(source, request)
            self._holders -= source.have | source.coming

    def tell(self, name: str, have: Iterable[int] = (), coming: Iterable[int] = (), lost: Iterable[int] = ()) -> None:
        """What a source told of itself."""
        source = self.sources.get(name)
        if source is None:
            return
        self._holders -= source.have | source.coming
        source.have |= _mask(self.units, have)
        source.coming |= _mask(self.units, coming)
        gone = _mask(self.units, lost)
        source.have &= ~gone
        source.coming &= ~gone & ~source.have
        self._holders += source.have | source.coming

    def hashed(self, index: int) -> None:
        """The hash of a unit became known: it can be taken from anybody."""
        self._hashed[index] = True

    def came(self, request: Request, now: float) -> None:
        """The next unit of a request came whole; whether it is right is told later."""
        source, index = self.sources.get(request.source), request.first + request.done
        if source is None or request not in source.requests:
            return
        request.done += 1
        self._judged[index] = True
        if not request.silent:
            self._asked[index] -= 1
        source.failures = 0
        spent = max(now - request.began, 1e-6)
        pace = request.done * self.unit_bytes / spent
        source.pace = pace if not source.pace else 0.7 * source.pace + 0.3 * pace
        self.heard(request, now)

    def heard(self, request: Request, now: float) -> None:
        """Some bytes came."""
        request.heard = now
        if request.silent:
            request.silent = False
            for index in request.open:
                self._asked[index] += 1

    def got(self, index: int) -> bool:
        """A unit is there and right; whether it was missing."""
        new = bool(self._missing[index])
        self._missing[index] = self._judged[index] = False
        self.left -= new
        return new

    def wrong(self, index: int) -> None:
        """A unit that came is not right: it is fetched again."""
        self._judged[index] = False

    def over(self, request: Request) -> None:
        """A request ended, with all it was for."""
        source = self.sources.get(request.source)
        if source is not None and request in source.requests:
            self._forget(source, request)

    def failed(self, request: Request, now: float, pause_s: float = 0.0) -> None:
        """A request ended early. Its source rests, longer with every failure."""
        source = self.sources.get(request.source)
        if source is None or request not in source.requests:
            return
        self._forget(source, request)
        source.failures += 1
        pause = pause_s or min(PAUSE_MAX_S, PAUSE_S * 2 ** min(source.failures - 1, 10))
        source.rests_until = max(source.rests_until, now + pause)

    def ban(self, name: str, reason: str) -> bool:
        """A source sent a wrong unit: it is never asked again. Whether that is new."""
        new = name not in self.banned
        self.banned.setdefault(name, reason)
        self.leave(name)
        return new

    def _forget(self, source: Known, request: Request) -> None:
        source.requests.remove(request)
        if not request.silent:
            for index in request.open:
                self._asked[index] -= 1

    # -- what is done ----------------------------------------------------------------------------

    def hung(self, now: float) -> list[Request]:
        """Requests that are given up; those that are only silent are marked, so that others are asked, too."""
        given_up = []
        for source in self.sources.values():
            for request in source.requests:
                quiet = now - request.heard
                if quiet > HUNG_S:
                    given_up.append(request)
                elif quiet > SILENT_S and not request.silent:
                    request.silent = True
                    for index in request.open:
                        self._asked[index] -= 1
        return given_up

    def decide(self, now: float) -> list[Request]:
        """Requests to make now."""
        made: list[Request] = []
        if not self.left:
            return made
        usable = self._usable(now)
        running = sum(not request.silent for source in self.sources.values() for request in source.requests)
        room = max(self.parallel, len(usable)) - running
        each = -(-max(self.parallel, len(usable)) // max(1, len(usable)))
        while room > 0 and usable:
            source = min(usable, key=lambda one: (len(one.requests), -one.pace))
            request = None
            if len(source.requests) < min(source.most, each):
                request = self._ask(source, len(usable), now)
            if request is None:
                usable.remove(source)
                continue
            made.append(request)
            room -= 1
        return made

    def _usable(self, now: float) -> list[Known]:
        """The sources to ask: those with requests under way, then the near and quick ones."""
        ready = [source for source in self.sources.values() if source.ready(now)]
        if len(ready) <= SOURCES_MAX:
            return ready
        ready.sort(key=lambda one: (not one.requests, -one.pace, one.near_s))
        useful = (source for source in ready if (source.have & self._missing).any())
        return list(islice(useful, SOURCES_MAX))

    def _ask(self, source: Known, sources: int, now: float) -> Request | None:
        can = source.have & self._missing & ~self._judged
        if not source.defines:
            can &= self._hashed
        free = can & (self._asked == 0)
        if free.any():
            first, count = self._run(free, self._length(source, sources))
        else:  # the endgame: what others were asked for is asked here, too
            mine = _mask(self.units, (index for request in source.requests for index in request.open))
            twice = can & (self._asked < COPIES_MAX) & ~mine
            if not twice.any():
                return None
            first, count = self._run(twice, 1)
        request = Request(source.name, first, count, now, now)
        source.requests.append(request)
        self._asked[first : first + count] += 1
        return request

    def _length(self, source: Known, sources: int) -> int:
        """So many units fit into one request: by pace, and so that all sources have something to do."""
        by_pace = int(source.pace * RUN_S / self.unit_bytes)
        fair = self.left // (2 * max(self.parallel, sources))
        return max(1, min(RUN_MAX, by_pace, fair))

    def _run(self, free: Mask, length: int) -> tuple[int, int]:
        """A stretch that begins with one of the rarest units; which of them is left to chance."""
        places = np.flatnonzero(free)
        rarity = self._holders[places]
        rarest = places[rarity == rarity.min()]
        chosen = int(rarest[self._draw(len(rarest))])
        if length == 1:
            return chosen, 1
        begin = chosen - chosen % length  # stretches that begin at multiples leave no small gaps
        while begin < chosen and not free[begin:chosen].all():
            begin += 1
        end = begin
        while end < min(self.units, begin + length) and free[end]:
            end += 1
        return begin, end - begin

    def reachable(self) -> bool:
        """Whether all that is missing is had, or fetched now, by some source."""
        return not bool((self._missing & (self._holders == 0)).any())

    def missing(self) -> Sequence[int]:
        """The units that are not there."""
        return [int(index) for index in np.flatnonzero(self._missing)]


def _mask(units: int, indexes: Iterable[int]) -> Mask:
    mask = np.zeros(units, bool)
    some = np.fromiter(indexes, np.int64)
    mask[some[(some >= 0) & (some < units)]] = True
    return mask
