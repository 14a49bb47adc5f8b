"""Measures a ring at several delays in one run: plain, one window in flight, several windows, many sessions."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from twd.bench.prompts import PROMPTS
from twd.bench.rates import rate_together
from twd.bench.recorded import Recording, write_down
from twd.bench.ring.drafter import DraftPlan, Guesser, LocalDraftModel, RecordedModel, RingDrafter
from twd.bench.ring.lab import Guess, MeasuredText, RingClient, RingLab, RingPlan
from twd.bench.rpc_plain import RpcBaseline
from twd.chat.template import ChatTemplate, render_tokens
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.gguf_tools.inspect import inspect
from twd.process.cores import usable_cores
from twd.wire.job import Prompt

_IN_FLIGHT: Final = 32
_AHEAD: Final = 96
_SEED: Final = 7
_WARM: Final = 12
_DAY: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RingBench:
    """What to measure."""

    source: Path
    folder: Path
    stages: int = 2
    rtts: tuple[float, ...] = (0.0, 2.0, 10.0, 20.0)
    wrong: tuple[float, ...] = (0.0, 0.1, 0.25)
    windows: tuple[int, ...] = (3, 7, 11, 15)
    """Fixed numbers of drafts in a window to try with one window in flight, besides the automatic choice."""
    sessions: tuple[int, ...] = (1, 2, 4, 8)
    texts: int = 2
    tokens: int = 128
    draft: Path | None = None
    draft_away: bool = False
    """Whether the draft model is replayed as if on another machine: it takes no CPU time from the stages."""
    plain_links: bool = False
    threads: int = 1
    beside_rpc: bool = False
    """Also measure llama.cpp's own RPC with as many workers."""


@dataclass(frozen=True, slots=True)
class DraftedFigures:
    """The results for one kind of drafts at one delay, in tokens per second."""

    wrong: float
    name: str
    one: float
    one_window: int
    """Drafts in a window of the best setting; 0: as many as pay."""
    several: float = 0.0
    waste: float = 0.0
    """Positions that a stage computed per accepted token."""


@dataclass(slots=True)
class DistanceFigures:
    """All results at one round trip time."""

    rtt_ms: float
    plain: float = 0.0
    rpc: float = 0.0
    """Tokens per second of plain decoding over llama.cpp's RPC; 0: not measured."""
    drafted: list[DraftedFigures] = field(default_factory=list)
    together: dict[int, float] = field(default_factory=dict)
    """Number of parallel sessions -> tokens per second of all."""
    equal: bool = True
    """Whether all texts equal those of plain decoding."""


@dataclass(slots=True)
class RingFigures:
    """All results of a run."""

    plan: RingBench
    distances: list[DistanceFigures] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether drafts changed no text."""
        return all(one.equal for one in self.distances)

    @property
    def document(self) -> dict[str, Any]:
        """Return the results for JSON."""
        return {
            "file": self.plan.source.name,
            "stages": self.plan.stages,
            "tokens": self.plan.tokens,
            "encrypted": not self.plan.plain_links,
            "draft_away": self.plan.draft_away,
            "equal": self.equal,
            "distances": [
                {
                    "rtt_ms": one.rtt_ms,
                    "plain": round(one.plain, 2),
                    **({"rpc_plain": round(one.rpc, 2)} if one.rpc else {}),
                    "sessions": {str(count): round(rate, 2) for count, rate in one.together.items()},
                    "drafted": [
                        {
                            "guesses": kind.name,
                            "one_in_flight": round(kind.one, 2),
                            "window": kind.one_window,
                            "several_in_flight": round(kind.several, 2),
                            "waste": round(kind.waste, 3),
                        }
                        for kind in one.drafted
                    ],
                }
                for one in self.distances
            ],
        }


def even_cuts(layers: int, stages: int) -> tuple[int, ...]:
    """Return the first layers of stages with about equal work; the output head counts as two layers."""
    share = (layers + 2) / stages
    return (*(min(round(share * number), layers - stages + number) for number in range(stages)), layers)


class RingBenchRun:
    """One run on one RingLab."""

    def __init__(self, plan: RingBench, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._texts: list[list[int]] = []
        self._recording: Recording | None = None
        with LoadedGguf.load(ModelLoadOptions(path=plan.source, vocab_only=True)) as model:
            self._vocabulary = model.vocab.size
            self._prompts = rendered_prompts(model, max(plan.texts, *plan.sessions))

    def run(self) -> RingFigures:
        """Run all measurements."""
        plan, figures = self._plan, RingFigures(self._plan)
        layers = inspect(plan.source).layers
        cuts = even_cuts(layers, plan.stages)
        parallel = max(plan.sessions)
        lab_plan = RingPlan(
            plan.source, plan.folder, cuts, parallel=parallel, threads=plan.threads, plain=plan.plain_links
        )
        with RingLab(lab_plan) as lab:
            for rtt in plan.rtts:
                figures.distances.append(at := self._distance(lab, rtt))
                if plan.beside_rpc:
                    self._beside(RpcBaseline(plan.source, layers, plan.stages, plan.threads), at)
        return figures

    def _beside(self, rpc: RpcBaseline, at: DistanceFigures) -> None:
        at.rpc = rpc.rate(at.rtt_ms, self._prompts[: self._plan.texts], self._plan.tokens)
        self._tell(f"  RPC, plain: {at.rpc:.1f} tok/s (the ring x{at.plain / at.rpc:.2f})")

    def _distance(self, lab: RingLab, rtt: float) -> DistanceFigures:
        plan, found = self._plan, DistanceFigures(rtt)
        with lab.ring(rtt, 1, self._vocabulary) as desk:
            desk.speak(self._prompts[:1], _WARM, [None])
            self._plain(desk, found)
            for wrong in plan.wrong:
                found.drafted.append(self._one_in_flight(desk, found, wrong))
        with lab.ring(rtt, _IN_FLIGHT, self._vocabulary) as desk:
            desk.speak(self._prompts[:1], _WARM, [None])
            found.drafted = [self._several(lab, desk, found, one) for one in found.drafted]
        if plan.draft is not None:
            found.drafted.append(self._with_model(lab, found, plan.draft))
        return found

    def _plain(self, desk: RingClient, found: DistanceFigures) -> None:
        spoken = self._speak(desk, None)
        found.plain = _rate(spoken)
        if not self._texts:
            self._texts = [one.tokens for one in spoken]
        self._compare(found, spoken)
        self._tell(f"RTT {found.rtt_ms:g} ms: plain {found.plain:.1f} tok/s")
        for count in self._plan.sessions:
            found.together[count] = self._together(desk, count)

    def _one_in_flight(self, desk: RingClient, found: DistanceFigures, wrong: float) -> DraftedFigures:
        rates: dict[int, float] = {}
        for window in (0, *self._plan.windows):
            spoken = self._speak(desk, wrong, window)
            rates[window] = _rate(spoken)
            self._compare(found, spoken)
        best = max(rates, key=lambda window: rates[window])
        return DraftedFigures(wrong, f"{wrong:.0%} wrong" if wrong else "perfect", rates[best], best)

    def _several(self, lab: RingLab, desk: RingClient, found: DistanceFigures, one: DraftedFigures) -> DraftedFigures:
        self._speak(desk, one.wrong)
        with _Waste(lab, desk) as waste:
            spoken = self._speak(desk, one.wrong)
        self._compare(found, spoken)
        return self._told(replace(one, several=_rate(spoken), waste=waste.value), found.plain)

    def _with_model(self, lab: RingLab, found: DistanceFigures, path: Path) -> DraftedFigures:
        rates = []
        for in_flight in (1, _IN_FLIGHT):
            with lab.ring(found.rtt_ms, in_flight, self._vocabulary) as desk:
                drafter = RingDrafter(self._guesser(path), desk)
                drafter.start()
                try:
                    self._speak(desk, 1.0, tell=False)
                    with _Waste(lab, desk) as waste:
                        spoken = self._speak(desk, 1.0, tell=False)
                finally:
                    drafter.stop()
            self._compare(found, spoken)
            rates.append(_rate(spoken))
        name = f"{path.stem}, own machine" if self._plan.draft_away else path.stem
        return self._told(DraftedFigures(1.0, name, rates[0], 0, rates[1], waste.value), found.plain)

    def _guesser(self, path: Path) -> Guesser:
        if not self._plan.draft_away:
            return LocalDraftModel(DraftPlan(path, self._plan.threads))
        if self._recording is None:
            model = LocalDraftModel(DraftPlan(path, usable_cores()))
            self._recording = write_down(model.native, self._prompts[: self._plan.texts], self._texts)
            model.close()
            self._tell(f"  {path.stem}, on a machine like this one: {self._recording.cost(1):.1f} ms a guess")
        return RecordedModel(self._recording)

    def _told(self, one: DraftedFigures, plain: float) -> DraftedFigures:
        self._tell(
            f"  {one.name}: one in flight {one.one:.1f}, several {one.several:.1f} tok/s "
            f"(x{one.several / one.one:.2f}; x{one.several / plain:.1f} of plain), waste {one.waste:.2f}"
        )
        return one

    def _speak(
        self, desk: RingClient, wrong: float | None, window: int = 0, *, tell: bool = True
    ) -> list[MeasuredText]:
        """Run the texts one after the other; `wrong` None: without drafts; not `tell`: another drafter drafts."""
        spoken = []
        for number, prompt in enumerate(self._prompts[: self._plan.texts]):
            guess: Guess | None = None
            if wrong is not None:
                guess = knowing(self._texts[number], len(prompt), wrong, number) if tell else _nothing
            spoken += desk.speak([prompt], self._plan.tokens, [guess], window)
        return spoken

    def _together(self, desk: RingClient, count: int) -> float:
        spoken = desk.speak(self._prompts[:count], self._plan.tokens, [None] * count)
        rate = rate_together([one.times for one in spoken])
        self._tell(f"  {count} sessions: {rate:.1f} tok/s")
        return rate

    def _compare(self, found: DistanceFigures, spoken: Sequence[MeasuredText]) -> None:
        found.equal = found.equal and [one.tokens for one in spoken] == self._texts


class _Waste:
    """Counts computed positions and accepted tokens."""

    def __init__(self, lab: RingLab, desk: RingClient) -> None:
        self.value = 0.0
        self._lab, self._desk = lab, desk

    def __enter__(self) -> Self:
        self._computed, self._kept = self._lab.computed(), self._desk.target.rows_kept
        return self

    def __exit__(self, *_: object) -> None:
        kept = self._desk.target.rows_kept - self._kept
        self.value = (self._lab.computed() - self._computed) / max(1, kept)


def rendered_prompts(model: LoadedGguf, count: int) -> list[list[int]]:
    """Return the first prompts of the benchmark as tokens of this model."""
    template = ChatTemplate.of(model.chat_template, model.vocab)
    asked = [Prompt(messages=list(one.messages)) for one in PROMPTS[:count]]
    return [render_tokens(template, one, model.vocab.tokenize, _DAY) for one in asked]


def knowing(text: Sequence[int], prompt: int, wrong: float, number: int = 0) -> Guess:
    """Return drafts from a recorded text; each is wrong with this chance, always the same ones."""
    dice = random.Random(_SEED + number)
    told = [token + 1 if dice.random() < wrong else token for token in text]

    def guess(known: Sequence[int]) -> list[int]:
        done = len(known) - prompt
        return told[done : done + _AHEAD]

    return guess


def _nothing(known: Sequence[int]) -> list[int]:
    return []


def _count(spoken: Sequence[MeasuredText]) -> int:
    return sum(len(one.tokens) - 1 for one in spoken)


def _rate(spoken: Sequence[MeasuredText]) -> float:
    """Return tokens per second after the first token of each text; the texts ran one after the other."""
    return 1000 * _count(spoken) / sum(one.decode_ms for one in spoken)
