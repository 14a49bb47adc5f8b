"""The real speculator and drafter in a simulated world: only the model and the engine's thread are played.

The runners' threads become coroutines on the virtual loop, where a pass takes virtual time; cores,
services and everything on the bus are the real ones.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.sim import truth
from tests.sim.doubles import POISON, VOCAB
from tests.sim.edges import DeskEdge
from tests.sim.hostile import HostileDrafter
from tests.sim.units import ServiceFactory
from tests.speculator.fakes import FakeTarget
from twd.decoding.cost import CostCurve
from twd.decoding.turns import Wait, WaitForPass
from twd.decoding.window import Logits, Report, Sampler, VerifyResult, Window, check
from twd.drafter.draft import DraftRules, Guess
from twd.drafter.runner import DraftRunner
from twd.drafter.service import DrafterService
from twd.kit.service import ServiceContext
from twd.process.compute import ProcessEffort
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.speculator.runner import Runner
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.embeddings import Embedding
from twd.speculator.targets.source import ReadySource
from twd.wire.base import ModelId, SessionId
from twd.wire.draft import DeviceKind, SessionOpened
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import TwdError
from twd.wire.job import JobSubmitted
from twd.wire.model import CostPoint, Exactness, ModelFacts
from twd.wire.prefix import prefix_hash

MODEL = ModelId("m")
CTX_SIZE = 512
PASS_MS = (CostPoint(width=1, ms=160.0), CostPoint(width=8, ms=190.0), CostPoint(width=32, ms=260.0))
DRAFT_MS = 25.0
NO_LOGITS: Logits = np.zeros(0, dtype=np.float32)


class TargetPicker:
    """The target's choice."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        return truth.choose(self._seed, history)


class BrokenPicker:
    """Takes the engine's thread down with it."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        raise ValueError(f"this prompt is {POISON}")


class DraftPicker:
    """A draft model's choice: the target's with a chance of `skill`, else something else."""

    def __init__(self, seed: int, skill: float) -> None:
        self._seed, self._skill = seed, skill

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        luck = prefix_hash((self._seed, *history[-3:])) % 1000 / 1000
        token = truth.choose(self._seed, history)
        return token if luck < self._skill else 2 + (token + len(history)) % (truth.VOCABULARY - 2)


class PlayedTarget(FakeTarget):
    """A target that also asks for reports on what it picked."""

    def __init__(self, slots: int, trees: bool = False) -> None:
        super().__init__(n_slots=slots, ctx_size=CTX_SIZE, trees=trees)
        self._reports: dict[int, Report | None] = {}

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        slot, cached = super().open(tokens, sampler, report)
        self._reports[slot] = report
        return slot, cached

    def _judge(self, window: Window) -> VerifyResult:
        try:
            check(window, vocabulary=truth.VOCABULARY, ctx_size=CTX_SIZE, trees=self.trees)
        except TwdError as error:
            return VerifyResult(window.slot, window.epoch, window.at, failure=error.failure)
        verdict = super()._judge(window)
        report = self._reports[window.slot]
        if report is not None:
            verdict.logprobs = [report(NO_LOGITS, token) for token in verdict.tokens]
        return verdict


class PlayedModel:
    """A loaded model, as far as a speculator knows it."""

    def __init__(self, slots: int = 3, trees: bool = False) -> None:
        self.facts = ModelFacts(
            model=MODEL,
            file="played",
            architecture="played",
            quantization="none",
            parameters=1,
            size_bytes=1,
            ctx_size=CTX_SIZE,
            parallel=slots,
            vocab=VOCAB,
        )
        self.exactness = Exactness(exact=True, settings="played")
        self.target = PlayedTarget(slots, trees)
        self.cost = CostCurve(PASS_MS)
        self.limits = SpeculatorLimits(slots=slots, ctx_size=CTX_SIZE, max_queue=16, prefill_rows=8, tree=trees)
        self.load_ms = 1
        self.tool_format = "bare"

    @property
    def local(self) -> bool:
        return True

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        seed = job.sampling.seed or 0
        deadly = job.prompt.text == POISON
        if deadly and seed % 2:
            raise ValueError(f"this prompt is {POISON}")
        return PreparedRequest(
            session=session,
            tokens=truth.prompt_tokens(job.prompt.text or ""),
            sampler=BrokenPicker() if deadly else TargetPicker(seed),
            piece=lambda token: truth.piece(token).encode(),
            end_tokens=frozenset({truth.END_OF_TEXT}),
            seed=seed,
            stops=(truth.STOP,),
        )

    def embed(self, request: EmbeddingRequested) -> Embedding:
        return Embedding(b"\0\0\x80?", len(request.prompt.text or ""))

    def tokenize(self, text: str) -> list[int]:
        return truth.prompt_tokens(text)

    def render(self, tokens: Sequence[int]) -> str:
        return truth.text_of(tokens)

    def close(self) -> None:
        """Nothing is held."""


class PlayedDraftModel:
    """A loaded draft model, as far as a drafter knows it."""

    vocab = VOCAB
    cost = CostCurve([CostPoint(width=1, ms=DRAFT_MS), CostPoint(width=8, ms=1.2 * DRAFT_MS)])
    device = DeviceKind.CPU
    size_bytes = 0

    def __init__(self, skill: float) -> None:
        self._skill = skill
        self.target = PlayedTarget(4)

    def judge(self, logits: Logits, token: int, want_other: bool) -> Guess:
        other = 2 + (token + 1) % (truth.VOCABULARY - 2)
        return Guess(token, 0.7, other, 0.2) if want_other else Guess(token, 0.7)

    def follow(self, event: SessionOpened) -> DraftRules:
        return DraftRules(DraftPicker(event.seed, self._skill))

    def close(self) -> None:
        """Nothing is held."""


class _Played:
    """An engine's thread as a coroutine: it takes the runner's own turns, and waits in virtual time."""

    _stopping: bool
    _inbox: Any
    _failed: Callable[[BaseException], None]
    turns: Callable[[], Iterator[Wait]]
    pass_s: Callable[[int], float]

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._posted = asyncio.Event()
        self._task = loop.create_task(self._live(), name="engine")

    async def _live(self) -> None:
        try:
            for wait in self.turns():
                await self._wait(wait)
        except Exception as error:  # noqa: BLE001 - handed to the service, as the thread does
            self._failed(error)

    async def _wait(self, wait: Wait) -> None:
        if isinstance(wait, WaitForPass):
            await asyncio.sleep(self.pass_s(wait.rows))
        elif self._inbox.empty():
            self._posted.clear()
            loop = asyncio.get_running_loop()
            alarm = None if wait.seconds is None else loop.call_later(wait.seconds, self._posted.set)
            await self._posted.wait()
            if alarm is not None:
                alarm.cancel()


class PlayedRunner(_Played, Runner):
    """The speculator's runner."""

    def post(self, command: Any, *, droppable: bool = False) -> None:
        super().post(command, droppable=droppable)
        self._posted.set()

    def pass_s(self, rows: int) -> float:
        return self._cost.ms(rows) / 1000

    def stop(self, timeout_s: float = 10.0) -> bool:
        self._stopping = True
        self._task.cancel()
        self._read_inbox()
        self._flush()
        self._target.shutdown()
        return True


class PlayedDraftRunner(_Played, DraftRunner):
    """The drafter's runner."""

    def post(self, command: Any) -> None:
        super().post(command)
        self._posted.set()

    def pass_s(self, rows: int) -> float:
        return DRAFT_MS / 1000

    def stop(self, timeout_s: float = 10.0) -> bool:
        self._stopping = True
        self._task.cancel()
        self._target.shutdown()
        return True


class RealSpeculator(SpeculatorService):
    """A speculator with a played model; every other one checks trees."""

    def __init__(self, ctx: ServiceContext) -> None:
        trees = ctx.ids.seed() % 2 == 0
        super().__init__(ctx, MODEL, ReadySource(lambda progress: PlayedModel(trees=trees)))


class RealDrafter(DrafterService):
    """A drafter with a played model; some are good, some useless, some hostile."""

    def __init__(self, ctx: ServiceContext) -> None:
        skill = (0.0, 0.5, 0.9)[ctx.ids.seed() % 3]
        super().__init__(ctx, ModelId("draft"), lambda progress: PlayedDraftModel(skill))


REAL: Mapping[str, ServiceFactory] = {
    "edge": DeskEdge,
    "speculator": RealSpeculator,
    "drafter": RealDrafter,
    "hostile": HostileDrafter,
}


@contextmanager
def played_engines() -> Iterator[None]:
    """While this holds, real services get played engine threads."""
    with (
        patch("twd.speculator.service.Runner", PlayedRunner),
        patch("twd.drafter.service.DraftRunner", PlayedDraftRunner),
        patch("twd.speculator.drafters.calibration.CALIBRATION_TOKENS", 12),
        patch("twd.speculator.service.crowding", lambda: 1.0),
        patch("twd.speculator.service.effort", ProcessEffort),
    ):
        yield
