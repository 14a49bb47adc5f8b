"""A real draft model beside a ring, without a bus."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from twd.bench.ring_lab import RingDesk
from twd.drafter.core import DrafterCore
from twd.drafter.native import judge
from twd.drafter.runner import DraftRunner
from twd.engine.loading import LoadPlan, NativeModel, load_native
from twd.speculator.core import SpeculatorCore
from twd.speculator.links import Drafter
from twd.wire.base import Event, InstanceId, ModelId, NodeId
from twd.wire.draft import DraftGranted, DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import Sampling, TokensAccepted

_NAME: Final = InstanceId("drafter.bench")


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """Which draft model, on how many threads."""

    path: Path
    ctx_size: int = 1024
    threads: int = 1


class RealDrafter:
    """Hears what a desk tells and guesses on a thread of its own."""

    def __init__(self, plan: DraftPlan, desk: RingDesk) -> None:
        wanted = LoadPlan(
            ModelId("draft"), plan.path, ctx_size=plan.ctx_size, parallel=1, threads=plan.threads, exact=False
        )
        self._native: NativeModel = load_native(wanted, lambda share, stage: None)
        self._desk = desk
        self._failures: list[BaseException] = []
        core = DrafterCore(_NAME, 1, plan.ctx_size)
        core.token_ms = self._native.cost.ms(1)
        self._runner = DraftRunner(core, self._native.target, judge, self._propose, self._failures.append, lambda: None)

    def start(self) -> None:
        """Offer to draft; the desk works already."""
        token_ms = self._native.cost.ms(1)
        drafter = Drafter(_NAME, NodeId("bench"), beside=False, model="draft", token_ms=token_ms)
        self._desk.hears = self._hear
        self._desk.post(lambda core, now: core.attach(drafter, now))
        self._runner.start()

    def stop(self) -> None:
        """Draft no more, and give the memory back."""
        self._desk.hears = lambda event: None
        self._runner.stop()
        self._native.close()

    def _hear(self, event: Event) -> None:
        match event:
            case SessionOpened():
                picker = self._native.pickers.picker(Sampling(), 0, prompt_len=len(event.tokens), ignore_eos=True)
                self._runner.post(lambda core: core.open(event, picker, beside=False))
            case TokensAccepted() if event.tokens:
                self._runner.post(lambda core: core.accept(event.job, event.at, event.tokens))
            case DraftGranted():
                self._runner.post(lambda core: core.grant(event))
            case SessionClosed():
                self._runner.post(lambda core: core.close(event.session))
            case _:
                return

    def _propose(self, proposals: list[DraftProposed]) -> None:
        for event in proposals:
            self._desk.post(partial(_draft, event))


def _draft(event: DraftProposed, core: SpeculatorCore, now: float) -> None:
    core.draft(event, event.tokens, now)
