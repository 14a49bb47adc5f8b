"""Decides which units to request from which source, and when a source is silent. No I/O; time is an argument."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Draw = Callable[[int], int]
"""Returns a random number below its argument."""

SOURCES_MAX: Final = 16
"""The most sources in use at the same time: few connections, to the fastest sources."""
RUN_MAX: Final = 32
"""The most units in one request."""
RUN_S: Final = 0.5
"""The wanted duration of a request in seconds."""
SILENT_S: Final = 2.0
"""After so many seconds without a byte, the units are also requested from another source."""
HUNG_S: Final = 15.0
"""After so many seconds without a byte, a request is given up."""
PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0
LATE_S: Final = 0.3
"""A request that runs for so many seconds may be late; units of others are requested only once."""
COPIES_MAX: Final = 2
"""The most requests for the same unit at one time."""


@dataclass(eq=False)
class Request:
    """A request for consecutive units from one source."""

    source: str
    first: int
    count: int
    began: float
    heard: float
    """The time of its last byte."""
    done: int = 0
    """Number of its units that came."""
    silent: bool = False

    @property
    def open(self) -> range:
        """The units that have not come yet."""
        return range(self.first + self.done, self.first + self.count)


@dataclass(eq=False)
class Known:
    """The state of one source."""

    name: str
    have: Mask
    coming: Mask
    defines: bool = False
    most: int = 4
    least: int = 1
    """Units of one request, if so many are missing."""
    near_s: float = 0.0
    """The round trip time in seconds; 0: not measured."""
    pace: float = 0.0
    """Recent bytes per second of one request."""
    failures: int = 0
    rests_until: float = 0.0
    requests: list[Request] = field(default_factory=list)

    def ready(self, now: float) -> bool:
        """Return whether this source can be used now."""
        return now >= self.rests_until and not any(request.silent for request in self.requests)


class Picker:
    """Chooses the requests for one file. All methods are fast: they are called for every unit."""

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
        """For each unit, the number of sources that have it or fetch it now."""
        self._asked = np.zeros(units, np.int16)
        """For each unit, the number of its requests; requests to silent sources do not count."""
        self._judged = np.zeros(units, bool)
        """Units that came and are being checked."""
        self.left = int(self._missing.sum())

    # -- what happens --------------------------------------------------------------------------

    def join(self, name: str, *, defines: bool = False, most: int = 4, least: int = 1, near_s: float = 0.0) -> None:
        """Add a source; it is used once it has told which units it has."""
        if name not in self.sources and name not in self.banned:
            nothing = np.zeros(self.units, bool)
            self.sources[name] = Known(name, nothing, nothing.copy(), defines, most, least, near_s)

    def leave(self, name: str) -> None:
        """Remove a source."""
        source = self.sources.pop(name, None)
        if source is not None:
            for request in list(source.requests):
                self._forget(source, request)
            self._holders -= source.have | source.coming

    def tell(self, name: str, have: Iterable[int] = (), coming: Iterable[int] = (), lost: Iterable[int] = ()) -> None:
        """Note which units a source has, fetches now, or lost."""
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
        """Note that the hash of a unit is known: now any source may send it."""
        self._hashed[index] = True

    def skip(self, indexes: Iterable[int]) -> None:
        """Request these units no more."""
        self._missing &= ~_mask(self.units, indexes)
        self.left = int(self._missing.sum())

    def want(self, indexes: Iterable[int]) -> None:
        """Request more units."""
        self._missing |= _mask(self.units, indexes)
        self.left = int(self._missing.sum())

    def has_all(self, name: str) -> bool:
        """Return whether a source has told that it has every unit."""
        return name in self.sources and bool(self.sources[name].have.all())

    def came(self, request: Request, now: float) -> None:
        """Note that the next unit of a request came completely; it is not checked yet."""
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
        """Note that bytes of a request came."""
        request.heard = now
        if request.silent:
            request.silent = False
            for index in request.open:
                self._asked[index] += 1

    def got(self, index: int) -> bool:
        """Note that a unit was checked and is right; returns whether it was missing."""
        new = bool(self._missing[index])
        self._missing[index] = self._judged[index] = False
        self.left -= new
        return new

    def wrong(self, index: int) -> None:
        """Note that a unit is wrong: it will be requested again."""
        self._judged[index] = False

    def over(self, request: Request) -> None:
        """Note that a request ended with all its units."""
        source = self.sources.get(request.source)
        if source is not None and request in source.requests:
            self._forget(source, request)

    def failed(self, request: Request, now: float, pause_s: float = 0.0) -> None:
        """Note that a request failed. Its source pauses, longer with every failure."""
        source = self.sources.get(request.source)
        if source is None or request not in source.requests:
            return
        self._forget(source, request)
        source.failures += 1
        pause = pause_s or min(PAUSE_MAX_S, PAUSE_S * 2 ** min(source.failures - 1, 10))
        source.rests_until = max(source.rests_until, now + pause)

    def ban(self, name: str, reason: str) -> bool:
        """Ban a source that sent a wrong unit; returns whether that is new."""
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
        """Return the requests to give up. Silent ones are only marked, so that others are asked, too."""
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
        """Return the requests to send now."""
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
        """Return the sources to use: first those with open requests, then the fast and near ones."""
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
        if source.defines:
            free &= ~self._elsewhere(now)
        if free.any():
            first, count = self._run(free, self._length(source, sources), in_order=source.defines)
        else:  # the end of a pull: units that other sources were asked for are requested here, too
            mine = _mask(self.units, (index for request in source.requests for index in request.open))
            twice = can & (self._asked < COPIES_MAX) & ~mine & self._late(source, now)
            if not twice.any():
                return None
            first, count = self._run(twice, 1)
        request = Request(source.name, first, count, now, now)
        source.requests.append(request)
        self._asked[first : first + count] += 1
        return request

    def _elsewhere(self, now: float) -> Mask:
        """Return the units that machines have, so that nobody needs to read them from the hub."""
        found = np.zeros(self.units, bool)
        for source in self.sources.values():
            if not source.defines and source.ready(now):
                found |= source.have
        return found & self._hashed

    def _late(self, source: Known, now: float) -> Mask:
        """Return the units that come so slowly that this source would probably send them sooner."""
        least = SILENT_S if source.defines else LATE_S
        patience = max(least, 2 * self.unit_bytes / source.pace if source.pace else 0.0)
        return self._asked_since(now - patience)

    def _asked_since(self, begin: float) -> Mask:
        """Return the units of the requests that run since `begin` or longer."""
        running = (request for source in self.sources.values() for request in source.requests)
        early = (request for request in running if request.began <= begin)
        return _mask(self.units, (index for request in early for index in request.open))

    def _length(self, source: Known, sources: int) -> int:
        """Return the number of units for one request, by the source's speed, and so that all sources have work."""
        by_pace = max(source.least, int(source.pace * RUN_S / self.unit_bytes))
        fair = self.left // (2 * max(self.parallel, sources))
        return max(1, min(RUN_MAX, by_pace, fair))

    def _run(self, free: Mask, length: int, *, in_order: bool = False) -> tuple[int, int]:
        """Return first unit and length of a run around one of the rarest units, chosen at random.

        `in_order`: around the first one instead. A file is read from its hub so, as it is hashed in order meanwhile.
        """
        places = np.flatnonzero(free)
        rarity = self._holders[places]
        rarest = places[:1] if in_order else places[rarity == rarity.min()]
        chosen = int(rarest[self._draw(len(rarest))])
        if length == 1:
            return chosen, 1
        begin = chosen - chosen % length  # runs that begin at multiples of their length leave no small gaps
        while begin < chosen and not free[begin:chosen].all():
            begin += 1
        end = begin
        while end < min(self.units, begin + length) and free[end]:
            end += 1
        return begin, end - begin

    def needs_hub(self, now: float) -> bool:
        """Return whether a unit is missing that no machine sends, or one that comes slowly."""
        late = self._asked_since(now - SILENT_S)
        return bool((self._missing & (late | ~self._elsewhere(now))).any())

    def missing(self) -> Sequence[int]:
        """Return the missing units."""
        return [int(index) for index in np.flatnonzero(self._missing)]


def _mask(units: int, indexes: Iterable[int]) -> Mask:
    mask = np.zeros(units, bool)
    some = np.fromiter(indexes, np.int64)
    mask[some[(some >= 0) & (some < units)]] = True
    return mask
