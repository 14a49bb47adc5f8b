"""Rings in threads of one process, over real sockets: fake or native stages, wired without a bus."""

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.ring.fake_slices import LAYERS, FakeSlice
from twd.engine.slices.engine import StagePlan
from twd.ring.frames import Frame, LinkRole, PassResults, RingMessage, Welcome
from twd.ring.handshake import Endpoint, dial
from twd.ring.links import ProbePace, RingLink
from twd.ring.trust import LinkIdentity, RingTrust, client_context, make_identity, ring_nonce
from twd.stage.engine import SliceEngine
from twd.stage.native import SlicePlan, load_slice
from twd.stage.server import HeldSlice, LinkRules, StageHooks, StageServer
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import TwdError
from twd.wire.ring import FrameFault, RingWired, StateFormat

HOME = InstanceId("speculator.test.home")
WAIT_S = 20.0
_numbers = itertools.count()


@dataclass
class Stage:
    """One stage and what it told."""

    server: StageServer
    port: int
    faults: list[tuple[FrameFault, str]] = field(default_factory=list)
    over: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint("127.0.0.1", self.port, self.server.name)


def start_stage(held: HeldSlice, engine: SliceEngine, rules: LinkRules) -> Stage:
    """A stage that listens on a free port."""
    name = InstanceId(f"stage.test.{next(_numbers)}")
    stage: Stage
    hooks = StageHooks(
        fault=lambda fault, peer, detail, count: stage.faults.append((fault, detail)),
        ring_over=lambda ring, reason: stage.over.put(reason),
        failed=lambda error: stage.failures.append(error),
    )
    stage = Stage(StageServer(name, held, engine, make_identity(name), rules, hooks), 0)
    stage.port = stage.server.listen("127.0.0.1", 0)
    return stage


@dataclass
class Ring:
    """Some stages in order, and how they are wired."""

    stages: list[Stage]
    rules: LinkRules
    format: StateFormat = StateFormat.F32
    identity: LinkIdentity = field(default_factory=lambda: make_identity(HOME))

    def wirings(self, ring: str, nonce: str) -> list[RingWired]:
        """What each stage is told."""
        encrypted = not self.rules.trusted_lan
        wired = []
        for index, stage in enumerate(self.stages):
            held = stage.server.held
            following = self.stages[index + 1] if index + 1 < len(self.stages) else None
            before = self.stages[index - 1] if index else None
            wired.append(
                RingWired(
                    ring=ring,
                    stage=stage.server.name,
                    home=HOME,
                    model=held.model,
                    file_hash=held.file_hash,
                    index=index,
                    count=len(self.stages),
                    first=held.first,
                    end=held.end,
                    nonce=nonce,
                    next_host="127.0.0.1" if following else "",
                    next_port=following.port if following else 0,
                    next_stage=following.server.name if following else InstanceId(""),
                    next_certificate=following.server.identity.certificate if following and encrypted else "",
                    home_certificate=self.identity.certificate if encrypted else "",
                    previous_certificate=before.server.identity.certificate if before and encrypted else "",
                    encrypted=encrypted,
                    states=self.format,
                )
            )
        return wired

    def wire(self) -> RingTrust:
        """Tell every stage its place; what home needs to dial them."""
        ring, nonce = f"ring-{next(_numbers)}", ring_nonce()
        for stage, wired in zip(self.stages, self.wirings(ring, nonce), strict=True):
            stage.server.wire(wired)
        return RingTrust(ring, nonce, self.rules.key, not self.rules.trusted_lan)

    def connect(self) -> "Hand":
        """Wire it and open all home links."""
        return Hand(self, self.wire())

    def close(self) -> None:
        """End all stages."""
        for stage in self.stages:
            stage.server.close()


class Hand:
    """A home that does what a test tells it, frame by frame."""

    def __init__(self, ring: Ring, trust: RingTrust) -> None:
        self.ring = ring
        self.trust = trust
        self.frames: queue.SimpleQueue[tuple[int, RingMessage]] = queue.SimpleQueue()
        self.lost: queue.SimpleQueue[tuple[int, TwdError]] = queue.SimpleQueue()
        self._welcomes: dict[int, Welcome] = {}
        self._links: dict[int, RingLink] = {}
        self._errors: list[TwdError] = []
        threads = [threading.Thread(target=self._dial, args=(index,)) for index in range(len(ring.stages))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        if self._errors:
            raise self._errors[0]

    @property
    def links(self) -> list[RingLink]:
        """To the stages in order."""
        return [self._links[index] for index in range(len(self.ring.stages))]

    @property
    def welcomes(self) -> list[Welcome]:
        """What the stages said of themselves."""
        return [self._welcomes[index] for index in range(len(self.ring.stages))]

    def _dial(self, index: int) -> None:
        stage = self.ring.stages[index]
        certificate = stage.server.identity.certificate
        context = client_context(self.ring.identity, certificate) if self.trust.encrypted else None
        try:
            dialed = dial(stage.endpoint, self.trust, context, LinkRole.HOME, HOME, time.monotonic() + WAIT_S)
        except TwdError as error:
            self._errors.append(error)
            return

        def handle(frame: Frame) -> None:
            self.frames.put((index, frame.message))

        pace = self.ring.rules.pace
        link = RingLink(dialed.connection, str(index), handle, lambda _, reason: self.lost.put((index, reason)), pace)
        self._links[index], self._welcomes[index] = link, dialed.welcome
        link.start()

    def send(self, message: RingMessage, stage: int = 0, payload: bytes = b"") -> None:
        """One frame to one stage."""
        self._links[stage].send(message, payload)

    def void(self, message: RingMessage) -> None:
        """The same to all."""
        for link in self.links:
            link.send(message)

    def verdicts(self) -> PassResults:
        """The next answer, of whatever stage."""
        _, message = self.frames.get(timeout=WAIT_S)
        assert isinstance(message, PassResults), message
        return message

    def close(self) -> None:
        """Hang up."""
        for link in self._links.values():
            link.close()
        for link in self._links.values():
            assert link.join(WAIT_S)


QUICK = LinkRules(pace=ProbePace(0.1, 5.0))
PLAIN = LinkRules(trusted_lan=True, pace=ProbePace(0.1, 5.0))


def even_cuts(count: int, layers: int) -> list[int]:
    """Where `count` stages of about the same size begin, and the end."""
    return [round(index * layers / count) for index in range(count + 1)]


@contextmanager
def native_ring(
    source: Path,
    cuts: Sequence[int],
    folder: Path,
    rules: LinkRules = QUICK,
    *,
    parallel: int = 4,
    ctx_size: int = 512,
    threads: int = 1,
) -> Iterator[Ring]:
    """A ring over a real model, cut where `cuts` say (0 first, the number of layers last); slices stay in `folder`."""
    stages = []
    for number, (first, end) in enumerate(itertools.pairwise(cuts), 2):
        head = number == len(cuts)
        plan = StagePlan(source, first, end, cuts[-1], head, ctx_size, parallel, threads=threads, own_head=True)
        loaded = load_slice(SlicePlan(ModelId("native"), source, plan, folder), lambda share, stage: None)
        stages.append(start_stage(loaded.held, loaded.engine, rules))
    with _running(Ring(stages, rules)) as ring:
        yield ring


@contextmanager
def fake_ring(count: int, rules: LinkRules = QUICK, **shape: int) -> Iterator[Ring]:
    """A ring over the fake model."""
    cuts = even_cuts(count, LAYERS)
    stages = []
    for first, end in itertools.pairwise(cuts):
        head = end == LAYERS
        held = HeldSlice(ModelId("fake"), "f4ke", first, end, LAYERS, head)
        stages.append(start_stage(held, FakeSlice(first, end, head=head, **shape), rules))
    with _running(Ring(stages, rules)) as ring:
        yield ring


@contextmanager
def _running(ring: Ring) -> Iterator[Ring]:
    try:
        yield ring
    finally:
        ring.close()
        assert not [failure for stage in ring.stages for failure in stage.failures]
