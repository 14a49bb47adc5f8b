"""A drafter as if it ran on another machine like this one: what its model guesses on known texts is written down
beforehand, with all cores, and given out at the pace at which it was made. The target has the cores to itself."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness import MODEL, System, spoken

from twd.bench.prompts import BenchPrompt
from twd.bench.recorded import ReplayedModel, confidence, write_down
from twd.chat.template import render_tokens
from twd.decoding.cost import CostCurve
from twd.drafter.draft import DraftRules
from twd.drafter.runner import Judge
from twd.drafter.service import DrafterService
from twd.engine.loading import LoadPlan, load_native
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.speculator.drafters.calibration import CALIBRATION_TEXT, CALIBRATION_TOKENS
from twd.wire.base import ModelId, NodeId
from twd.wire.draft import DeviceKind, SessionOpened
from twd.wire.job import Prompt
from twd.wire.model import VocabFingerprint

CTX_SIZE = 1024


@dataclass(frozen=True, slots=True)
class RecordedDrafts:
    """A draft model, as the drafter's service wants it."""

    vocab: VocabFingerprint
    cost: CostCurve
    target: ReplayedModel
    device: DeviceKind = DeviceKind.CPU

    @property
    def judge(self) -> Judge:
        """As sure as the model was."""
        return confidence

    def follow(self, event: SessionOpened) -> DraftRules:
        """What was written down is chosen already."""
        return DraftRules(self.target)

    def close(self) -> None:
        """There is nothing to give back."""


def recorded(target: Path, draft: Path, prompts: Sequence[BenchPrompt], count: int) -> RecordedDrafts:
    """What the draft model guesses while the target answers these prompts, and on the text of a drafter's trial."""
    asked = [(Prompt(messages=list(prompt.messages)), count) for prompt in prompts]
    begun, texts = _answers(target, [*asked, (Prompt(text=CALIBRATION_TEXT), CALIBRATION_TOKENS)])
    native = load_native(LoadPlan(MODEL, draft, ctx_size=CTX_SIZE, parallel=1, exact=False, timed=True), _quiet)
    try:
        pace = CostCurve(native.cost.points())  # the drafter learns from what is played: that must not change it
        told = replace(write_down(native, begun, texts), cost=pace.ms)
        return RecordedDrafts(native.facts.vocab, native.cost, ReplayedModel(told))
    finally:
        native.close()


def _answers(target: Path, asked: Sequence[tuple[Prompt, int]]) -> tuple[list[list[int]], list[list[int]]]:
    native = load_native(LoadPlan(MODEL, target, ctx_size=CTX_SIZE, parallel=1), _quiet)
    tokenize, now = native.model.vocab.tokenize, datetime.now(UTC)
    try:
        begun = [render_tokens(native.template, prompt, tokenize, now) for prompt, _ in asked]
        return begun, [list(spoken(native, tokens, count)) for tokens, (_, count) in zip(begun, asked, strict=True)]
    finally:
        native.close()


@asynccontextmanager
async def drafting(system: System, model: str, drafts: RecordedDrafts) -> AsyncIterator[None]:
    """The drafter's own service, on the system's bus, on a machine that nobody else is on."""
    async with system.ctx().bus("drafter") as bus:
        ctx = ServiceContext(bus=bus, node=NodeId("far"), clock=SystemClock(), ids=Ids())
        drafter = DrafterService(ctx, ModelId(model), lambda _: drafts)
        await drafter.start()
        try:
            yield
        finally:
            await drafter.stop("done")


def _quiet(share: float, stage: str) -> None:
    """Nobody waits for it."""
