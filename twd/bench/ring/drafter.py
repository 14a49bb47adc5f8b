"""A draft model beside a ring, without a bus: computed in this process, or replayed as if on its own machine."""

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
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import Event, InstanceId, ModelId, NodeId
from twd.wire.draft import DraftGranted, DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import Sampling, TokensAccepted

_NAME: Final = InstanceId("drafter.bench")


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """The draft model and its number of threads."""

    path: Path
    threads: int = 1
    ctx_size: int = 1024


class Guesser(Protocol):
    """The interface of what makes the drafts."""

    @property
    def target(self) -> Target:
        """The model that computes the drafts."""
        ...

    @property
    def judge(self) -> Judge:
        """Returns the confidence of a draft."""
        ...

    @property
    def token_ms(self) -> float:
        """Milliseconds for one draft."""
        ...

    def sampler(self, prompt_len: int) -> Sampler:
        """Return the sampler that chooses a draft."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class LocalDraftModel:
    """A draft model in this process; it shares the CPU with everything else."""

    judge = staticmethod(judge)

    def __init__(self, plan: DraftPlan) -> None:
        wanted = LoadPlan(
            ModelId("draft"),
            plan.path,
            ctx_size=plan.ctx_size,
            parallel=1,
            threads=plan.threads,
            exact=False,
            test=False,
            timed=True,
        )
        self.native: NativeModel = load_native(wanted, lambda share, stage: None)
        self.target = self.native.target
        self.token_ms = self.native.cost.ms(1)

    def sampler(self, prompt_len: int) -> Sampler:
        """Return a greedy sampler that goes on after the end of an answer."""
        return self.native.samplers.sampler(Sampling(), 0, prompt_len=prompt_len, ignore_eos=True)

    def close(self) -> None:
        """Give the memory back."""
        self.native.close()


class RecordedModel:
    """A recorded draft model, replayed at its measured speed; it uses no CPU time."""

    judge = staticmethod(confidence)

    def __init__(self, recording: Recording) -> None:
        self.target = ReplayedModel(recording)
        self.token_ms = recording.cost(1)

    def sampler(self, prompt_len: int) -> Sampler:
        """Return a sampler that is not used: the drafts are chosen already."""
        return self.target

    def close(self) -> None:
        """There is nothing to give back."""


class RingDrafter:
    """Receives the events of a RingClient and drafts on its own thread."""

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
        """Attach to the client, which runs already."""
        drafter = AttachedDrafter(_NAME, NodeId("bench"), beside=False, model="draft", token_ms=self._guesser.token_ms)
        self._desk.hears = self._hear
        self._desk.post(lambda core, now: core.attach(drafter, now))
        self._runner.start()

    def stop(self) -> None:
        """Stop, and free the memory."""
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
