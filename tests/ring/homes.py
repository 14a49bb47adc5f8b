"""A speculator's core and runner over a ring in this process, and a desk that hands in jobs and gathers texts."""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.ring.rings import HOME, WAIT_S, Ring
from twd.bench.ring.lab import RingClient, RingLab
from twd.decoding.cost import CostCurve
from twd.kit.effects import Effect, Publish
from twd.ring.driver import RingDriver
from twd.ring.frames import SessionSpec
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.ring.trial import pipe_of
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.speculator.runner import Runner
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import JobFailed, JobFinished, JobSubmitted, Prompt, Sampling, TokensAccepted
from twd.wire.model import CostPoint, VocabFingerprint
from twd.wire.prefix import prefix_hash
from twd.wire.ring import StageReady

GREEDY = Sampling()
FAR_MS = 200.0
Guess = Callable[[Sequence[int]], list[int]]
"""From a text to what may follow."""


def described(ring: Ring) -> list[StageReady]:
    """The stages of a ring as they would tell the bus."""
    return [
        StageReady(
            stage=one.server.name,
            node=NodeId("here"),
            model=one.server.held.model,
            file_hash=one.server.held.file_hash,
            first=one.server.held.first,
            end=one.server.held.end,
            layers=one.server.held.layers,
            head=one.server.held.head,
            host="127.0.0.1",
            port=one.port,
            certificate=one.server.identity.certificate,
            n_embd=one.server.engine.n_embd,
            guess_ms=one.server.engine.guesser.step_ms if one.server.engine.guesser is not None else 0.0,
            cost=[CostPoint(width=1, ms=1.0), CostPoint(width=32, ms=8.0)],
        )
        for one in ring.stages
    ]


def go_home(ring: Ring) -> RingDriver:
    """Wire a ring and open its links."""
    trust = ring.wire()
    return RingDriver.connect(described(ring), trust, ring.identity, HOME, time.monotonic() + WAIT_S, ring.rules.pace)


@dataclass
class Desk:
    """Jobs in, texts out; guesses are made as soon as tokens are told."""

    core: SpeculatorCore
    target: RingTarget
    guess: Guess | None = None
    end_tokens: frozenset[int] = frozenset()
    texts: dict[str, list[int]] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)
    ends: "queue.SimpleQueue[JobFinished | JobFailed]" = field(default_factory=queue.SimpleQueue)
    failures: list[BaseException] = field(default_factory=list)
    watch: Callable[[str, int], None] = lambda job, tokens: None

    def __post_init__(self) -> None:
        self._known: dict[SessionId, list[int]] = {}
        self.runner = Runner(
            self.core, self.target, CostCurve([CostPoint(width=1, ms=1.0)]), self._deliver, self.failures.append
        )

    def ask(self, name: str, prompt: Sequence[int], count: int, sampling: Sampling = GREEDY) -> None:
        """Hand in a job."""
        job = JobSubmitted(
            job=JobId(name),
            model=ModelId("m"),
            owner=InstanceId("edge"),
            prompt=Prompt(text=""),
            max_tokens=count,
            sampling=sampling,
        )
        spec = SessionSpec(sampling, sampling.seed or 0, len(prompt))
        opening = PreparedRequest(
            SessionId(f"s-{name}"),
            list(prompt),
            RemoteSpecSampler(spec),
            lambda _: b"",
            self.end_tokens,
            sampling.seed or 0,
        )
        self.texts[name] = []
        self._known[opening.session] = list(prompt)
        self.runner.post(lambda core, now: core.submit(job, opening, now))
        if self.guess is not None:
            self._propose(opening.session)

    def wait(self, count: int = 1, seconds: float = 60.0) -> list[JobFinished | JobFailed]:
        """The ends of so many jobs."""
        return [self.ends.get(timeout=seconds) for _ in range(count)]

    def _deliver(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Publish)
            self.told.append(effect.event)
            self._hear(effect.event)

    def _hear(self, event: Event) -> None:
        match event:
            case TokensAccepted():
                text = self.texts[event.job]
                assert event.index == len(text), "a token was told twice, or one is missing"
                text += event.tokens
                self._known[event.session] += event.tokens
                self.watch(event.job, len(text))
                if self.guess is not None and event.tokens:
                    self._propose(event.session)
            case JobFinished() | JobFailed():
                self.ends.put(event)
            case _:
                assert not isinstance(event, SessionOpened | SessionClosed)

    def _propose(self, session: SessionId) -> None:
        assert self.guess is not None
        known = self._known[session]
        tokens = self.guess(known)
        event = DraftProposed(
            session=session, drafter=InstanceId("d"), at=len(known), prefix=prefix_hash(known), tokens=tokens
        )
        self.runner.post(lambda core, now: core.draft(event, tokens, now))


@contextmanager
def desk(
    ring: Ring,
    *,
    vocabulary: int,
    in_flight: int = 16,
    ngram: bool = True,
    guess: Guess | None = None,
    end_tokens: frozenset[int] = frozenset(),
    head_ms: float | None = None,
) -> Iterator[Desk]:
    """A desk that works until the end of the block. `head_ms`: what a guess of the head is taken to cost, and links
    are taken to be so long that each guess is worth its row; None: all as measured, so a guess may cost more than it
    brings."""
    home = go_home(ring)
    pipe = pipe_of(described(ring), home.bounds.credits)
    if head_ms is not None:
        pipe.links_ms = FAR_MS
        pipe.observe = lambda *measured: None  # type: ignore[method-assign]
    target = RingTarget(home, pipe, vocabulary=vocabulary, in_flight=in_flight)
    identity = SpeculatorIdentity(
        ModelId("m"), InstanceId("spec"), NodeId("n"), VocabFingerprint(hash="v", tokens=vocabulary)
    )
    limits = SpeculatorLimits(
        slots=target.n_slots,
        ctx_size=target.ctx_size,
        max_window=min(32, target.window_max - 1),
        prefill_rows=target.window_max,
        in_flight=in_flight,
        ngram=ngram,
        head_ms=described(ring)[-1].guess_ms if head_ms is None else head_ms,
    )
    made = Desk(SpeculatorCore(identity, limits, pipe.trip_ms, pipe=pipe), target, guess, end_tokens)
    made.runner.start()
    try:
        yield made
    finally:
        assert made.runner.stop()
        assert target.home.join()
        assert not made.failures


def liar(vocabulary: int, seed: int) -> Guess:
    """Guesses at random."""
    dice = random.Random(seed)
    return lambda known: [dice.randrange(vocabulary) for _ in range(dice.randint(1, 12))]


def knowing(text: Sequence[int], prompt: int, wrong: float = 0.0, ahead: int = 48, seed: int = 1) -> Guess:
    """Guesses from a recorded text, some of them wrong."""
    bad = {at for at in range(len(text)) if random.Random(f"{seed} {at}").random() < wrong}

    def guess(known: Sequence[int]) -> list[int]:
        done = len(known) - prompt
        return [text[at] + 1 if at in bad else text[at] for at in range(done, min(done + ahead, len(text)))]

    return guess


def in_background(work: Callable[[], None]) -> threading.Thread:
    """A thread that the caller joins."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def struck(lab: RingLab, client: RingClient, victim: int, blow: int, at: int) -> threading.Thread:
    """Hit a stage when the text has so many tokens; another takes its place as soon as the ring is over."""
    hit, over = threading.Event(), threading.Event()
    client.home.ended = lambda reason: over.set()
    told = [0]

    def hear(event: Event) -> None:
        if isinstance(event, TokensAccepted):
            told[0] += len(event.tokens)
            if told[0] >= at and not hit.is_set():
                hit.set()
                lab.strike(victim, blow)

    def repair() -> None:
        assert over.wait(60.0), "the loss of a stage was not noticed"
        lab.replace(victim)
        client.home = lab.wire()
        client.target.rewire(client.home)

    client.hears = hear
    return in_background(repair)
