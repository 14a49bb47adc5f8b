"""The figures of the product benchmark: rates, quartiles and ratios for each start. No I/O."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from twd.bench.product.http_client import Reply
from twd.bench.report import percentile

PEER = "llama-server"
"""The names of its settings begin with this."""
WITHOUT = "plain"
FIRST_TEN = 10


class Phase(StrEnum):
    """The kinds of passes over the prompts."""

    PLAIN = "plain"
    FIRST = "first"
    """With drafts; every prompt is new."""
    REPEAT = "repeat"
    """With drafts; every prompt was answered before."""


class Run(msgspec.Struct, frozen=True):
    """One pass over the prompts, after one fresh start of one contestant."""

    case: str
    contestant: str
    start: int
    phase: Phase
    clients: int
    seconds: float
    replies: list[Reply]


class Results(msgspec.Struct):
    """All measurements, as stored in a file."""

    machine: dict[str, str] = {}
    settings: dict[str, str] = {}
    runs: list[Run] = []

    def has(self, case: str, contestant: str, start: int) -> bool:
        """Return whether this was measured."""
        return any((run.case, run.contestant, run.start) == (case, contestant, start) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The median, and the range of the middle half of the values."""

    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> "Quartiles":
        """Return the quartiles; zeros without values."""
        known = sorted(values)
        if not known:
            return cls()
        if len(known) == 1:
            return cls(known[0], known[0], known[0])
        return cls(*statistics.quantiles(known, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of one contestant in one phase of one case, over all starts."""

    rates: tuple[float, ...]
    """For each start, tokens per second over all answers."""
    answer_rates: Quartiles
    """Tokens per second of single answers."""
    first_ms: Quartiles
    gap_p95_ms: float
    totals: tuple[float, ...]
    """For each start, tokens per second of all clients, from the first request to the end of the last answer."""

    @property
    def rate(self) -> float:
        """The median start."""
        return statistics.median(self.rates) if self.rates else 0.0

    @property
    def total(self) -> float:
        """The median start, of all clients."""
        return statistics.median(self.totals) if self.totals else 0.0


def rate_of(replies: Sequence[Reply]) -> float:
    """Return tokens per second after the first token of each answer."""
    spent = sum(reply.decode_ms for reply in replies)
    return 1000 * sum(max(0, reply.tokens - 1) for reply in replies) / spent if spent else 0.0


def total_of(run: Run) -> float:
    """Return tokens per second of all clients, with the time for prompts."""
    return sum(reply.tokens for reply in run.replies) / run.seconds if run.seconds else 0.0


def speed_of(run: Run) -> float:
    """Return the figure to compare: the stream's speed for one client, the total for several clients."""
    return total_of(run) if run.clients > 1 else rate_of(run.replies)


def chosen(runs: Iterable[Run], case: str, contestant: str, phase: Phase) -> list[Run]:
    """Return the runs of one contestant in one phase, by start."""
    found = [run for run in runs if (run.case, run.contestant, run.phase) == (case, contestant, phase)]
    return sorted(found, key=lambda run: run.start)


def summarize(runs: Sequence[Run]) -> Summary:
    """Return the figures of several runs of the same kind."""
    replies = [reply for run in runs for reply in run.replies]
    return Summary(
        rates=tuple(rate_of(run.replies) for run in runs),
        answer_rates=Quartiles.of(rate_of([reply]) for reply in replies if reply.decode_ms),
        first_ms=Quartiles.of(reply.first_ms for reply in replies if reply.arrivals_ms),
        gap_p95_ms=percentile([gap for reply in replies for gap in reply.gaps_ms], 0.95),
        totals=tuple(total_of(run) for run in runs),
    )


def best_peer(runs: Iterable[Run], case: str) -> str:
    """Return the fastest setting of the other server by the median of all starts; empty if none was measured."""
    speeds: dict[str, list[float]] = {}
    for run in runs:
        if run.case == case and run.contestant.startswith(PEER):
            speeds.setdefault(run.contestant, []).append(speed_of(run))
    return max(speeds, key=lambda name: statistics.median(speeds[name]), default="")


def ratios(ours: Sequence[Run], theirs: Sequence[Run], figure: Callable[[Run], float] = speed_of) -> list[float]:
    """Return our speed divided by theirs for each start, so that changes of the machine over time cancel out."""
    other = {run.start: figure(run) for run in theirs}
    return [figure(run) / other[run.start] for run in ours if other.get(run.start)]


def first_ten(first: Sequence[Run], repeated: Sequence[Run]) -> list[float]:
    """Return the speed of the first ten answers after a start, relative to the same prompts asked again later."""
    return ratios(_cut(first), _cut(repeated), lambda run: rate_of(run.replies))


def _cut(runs: Sequence[Run]) -> list[Run]:
    return [msgspec.structs.replace(run, replies=run.replies[:FIRST_TEN]) for run in runs]


def equal_texts(ours: Sequence[Run], others: Sequence[Run]) -> tuple[int, int]:
    """Return how many texts are equal, and how many were compared, for the same prompts after the same start."""
    told = {(run.start, reply.question): reply.text_hash for run in others for reply in run.replies}
    pairs = [
        (reply.text_hash, told[run.start, reply.question])
        for run in ours
        for reply in run.replies
        if (run.start, reply.question) in told
    ]
    return sum(one == other for one, other in pairs), len(pairs)
