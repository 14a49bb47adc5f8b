"""A draft model beside a ring, without a bus: computed here and now, or played as if on a machine of its own."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from twd.bench.recorded import Recording, ReplayedModel, confidence
from twd.bench.ring.lab import RingClient
from twd.decoding.window import Sampler, Target
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules
from twd.drafter.native import judge
from twd.drafter.runner import DraftRunner, Judge
from twd.engine.loading import LoadPlan, NativeModel, load_native
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import Event, InstanceId, ModelId, NodeId
from twd.wire.draft import DraftGranted, DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import Sampling, TokensAccepted

_NAME: Final = InstanceId("drafter.bench")


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """Which draft model, on how many threads."""

    path: Path
    threads: int = 1
    ctx_size: int = 1024


class Guesser(Protocol):
    """What makes the guesses."""

    @property
    def target(self) -> Target:
        """Computes them."""
        ...

    @property
    def judge(self) -> Judge:
        """Says how sure they are."""
        ...

    @property
    def token_ms(self) -> float:
        """Time of one guess."""
        ...

    def sampler(self, prompt_len: int) -> Sampler:
        """Chooses one."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class LocalDraftModel:
    """A draft model in this process: it shares the processor with everything else."""

    judge = staticmethod(judge)

    def __init__(self, plan: DraftPlan) -> None:
        wanted = LoadPlan(
            ModelId("draft"), plan.path, ctx_size=plan.ctx_size, parallel=1, threads=plan.threads, exact=False
        )
        self.native: NativeModel = load_native(wanted, lambda share, stage: None)
        self.target = self.native.target
        self.token_ms = self.native.cost.ms(1)

    def sampler(self, prompt_len: int) -> Sampler:
        """Greedy, past the end of an answer."""
        return self.native.samplers.sampler(Sampling(), 0, prompt_len=prompt_len, ignore_eos=True)

    def close(self) -> None:
        """Give the memory back."""
        self.native.close()


class RecordedModel:
    """What a draft model guessed beforehand, at the pace that it was measured at: it costs this machine nothing."""

    judge = staticmethod(confidence)

    def __init__(self, recording: Recording) -> None:
        self.target = ReplayedModel(recording)
        self.token_ms = recording.cost(1)

    def sampler(self, prompt_len: int) -> Sampler:
        """What was written down is chosen already."""
        return self.target

    def close(self) -> None:
        """There is nothing to give back."""


class RingDrafter:
    """Hears what a desk tells and guesses on a thread of its own."""

    def __init__(self, guesser: Guesser, desk: RingClient) -> None:
        self._guesser = guesser
        self._desk = desk
        self._failures: list[BaseException] = []
        core = DrafterCore(_NAME, 1, guesser.target.ctx_size)
        core.token_ms = guesser.token_ms
        self._runner = DraftRunner(
            core, guesser.target, guesser.judge, self._propose, self._failures.append, lambda: None
        )

    def start(self) -> None:
        """Offer to draft; the desk works already."""
        drafter = AttachedDrafter(_NAME, NodeId("bench"), beside=False, model="draft", token_ms=self._guesser.token_ms)
        self._desk.hears = self._hear
        self._desk.post(lambda core, now: core.attach(drafter, now))
        self._runner.start()

    def stop(self) -> None:
        """Draft no more, and give the memory back."""
        self._desk.hears = lambda event: None
        self._runner.stop()
        self._guesser.close()

    def _hear(self, event: Event) -> None:
        match event:
            case SessionOpened():
                following = DraftRules(self._guesser.sampler(len(event.tokens)))
                self._runner.post(lambda core: core.open(event, following, beside=False))
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
