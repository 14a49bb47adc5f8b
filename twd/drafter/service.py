"""A drafter on the bus, with a draft model of its own. Decisions are in core.py, the engine's thread is runner.py."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from twd.drafter.core import DrafterCore
from twd.drafter.runner import DraftRunner, Judge
from twd.engine.cost import CostCurve
from twd.engine.window import Picker, Target
from twd.kit.progress import Progress
from twd.kit.service import Effects, Service, Surroundings
from twd.kit.tasks import soon
from twd.kit.tries import until_loaded
from twd.wire.base import ModelId
from twd.wire.draft import (
    DeviceKind,
    DrafterAttached,
    DrafterChecked,
    DrafterDetached,
    DraftGranted,
    DraftProposed,
    SessionClosed,
    SessionOpened,
    share_device,
)
from twd.wire.failures import TwdError
from twd.wire.job import JobFailed, JobFinished, Sampling, TokensAccepted
from twd.wire.model import ModelFailed, ModelLoading, ModelReady, VocabFingerprint
from twd.wire.service import Health


class LoadedDraftModel(Protocol):
    """What the service needs of a draft model in memory."""

    @property
    def vocab(self) -> VocabFingerprint:
        """Which tokens it speaks."""
        ...

    @property
    def target(self) -> Target:
        """Makes its guesses."""
        ...

    @property
    def cost(self) -> CostCurve:
        """Time of a pass by its rows."""
        ...

    @property
    def device(self) -> DeviceKind:
        """On what it computes."""
        ...

    @property
    def judge(self) -> Judge:
        """How sure it is of a guess, and what it would have said instead."""
        ...

    def picker(self, sampling: Sampling, seed: int, prompt_len: int) -> Picker:
        """The same choice as the target's, on this model's logits."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


Load = Callable[[Progress], LoadedDraftModel]


class Drafter(Service):
    """Guesses ahead of every session whose model speaks its tokens."""

    name = "drafter"
    reads = (
        SessionOpened,
        SessionClosed,
        TokensAccepted,
        DraftGranted,
        DrafterChecked,
        JobFinished,
        JobFailed,
        ModelReady,
    )
    writes = (DraftProposed, DrafterAttached, DrafterDetached, ModelLoading, ModelFailed)

    def __init__(self, ground: Surroundings, model: ModelId, load: Load, for_model: str = "") -> None:
        super().__init__(ground)
        self.model = model
        self.for_model = for_model
        self._load = load
        self._loaded: LoadedDraftModel | None = None
        self._runner: DraftRunner | None = None
        self._core: DrafterCore | None = None
        self._proposed = 0
        self.note = "loading"
        self.settled = asyncio.Event()
        """Set when loading has ended for the first time, well or badly; where it failed, it is tried again."""

    async def start(self) -> None:
        """Be there at once; draft when the model is loaded."""
        await super().start()
        if self.ended.is_set():
            return
        self.health = Health.STARTING
        self.tasks.start("load", self._load_model())

    async def _load_model(self) -> None:
        loop = asyncio.get_running_loop()

        def progress(share: float, stage: str) -> None:
            soon(loop, self._tell_progress, share, stage)

        async def find() -> Callable[[], LoadedDraftModel]:
            return lambda: self._load(progress)

        loaded = self._loaded = await until_loaded(find, self._cannot_load, self.clock)
        target, cost = loaded.target, loaded.cost
        tries = cost.ms if target.can_rollback else None
        core = self._core = DrafterCore(self.instance, target.n_slots, target.ctx_size, tries, target.window_max)
        core.token_ms = cost.ms(1)
        self._runner = DraftRunner(
            core,
            target,
            loaded.judge,
            deliver=lambda proposals: soon(loop, self._propose, proposals),
            failed=lambda error: soon(loop, self.fail, error, "engine"),
            lost=lambda: soon(loop, self._attach),
            cost=cost,
        )
        self._runner.start()
        self.health, self.note = Health.OK, "ready"
        self.settled.set()
        await self.renew_lease()
        self._attach()

    def _cannot_load(self, error: TwdError, new: bool) -> None:
        self.health, self.note = Health.DEGRADED, error.failure.with_advice
        self.settled.set()
        if new:
            self.log.error("%s cannot be loaded: %s (%s); tried again", self.model, error, error.failure.advice)
            self.emit(ModelFailed(model=self.model, node=self.ground.node, failure=error.failure))

    def _tell_progress(self, share: float, stage: str) -> None:
        if self.health is Health.DEGRADED:
            if not share:
                return  # one more try: while it reads nothing, what failed is all there is to tell
            self.health = Health.STARTING
        self.note = f"loading {self.model}: {stage} {share:.0%}"

    def _attach(self) -> None:
        if self._loaded is None or self._core is None:
            return
        self.emit(
            DrafterAttached(
                drafter=self.instance,
                node=self.ground.node,
                model=self.model,
                vocab=self._loaded.vocab,
                device=self._loaded.device,
                token_ms=round(self._core.token_ms, 3),
                for_model=ModelId(self.for_model),
            )
        )

    def _propose(self, proposals: list[DraftProposed]) -> None:
        for proposal in proposals:
            self._proposed += len(proposal.tokens)
            self.emit(proposal)

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """What `twd status` shows of this drafter."""
        facts: dict[str, str | int | float | bool | list[str]] = {
            "model": self.model,
            "ready": self._core is not None,
            "for_model": self.for_model,
        }
        if self._core is not None:
            facts |= {
                "sessions": len(self._core.drafts),
                "token_ms": round(self._core.token_ms, 2),
                "proposed": self._proposed,
            }
        return facts

    async def teardown(self) -> None:
        """Leave: sessions go on without these guesses."""
        if self._runner is not None:
            self.emit(DrafterDetached(drafter=self.instance, reason="stopped"))
            if not await asyncio.to_thread(self._runner.stop):
                self.log.error("the engine's thread did not end, so the model's memory is left to it")
                return
        if self._loaded is not None:
            self._loaded.close()

    # -- events --------------------------------------------------------------------------------

    def on_model_ready(self, event: ModelReady) -> Effects:
        """A speculator has come up: it does not know us yet."""
        self._attach()
        return None

    def on_drafter_checked(self, event: DrafterChecked) -> Effects:
        """A speculator tells whether the pair pays."""
        if event.drafter == self.instance and not event.pays:
            self.note = event.advice[:200]
            self.log.warning("drafting for %s will not pay: %s", event.target, event.advice)
        return None

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """Run ahead of it, if it speaks our tokens."""
        if self._runner is None or self._loaded is None or event.vocab.hash != self._loaded.vocab.hash:
            return None
        if self.for_model and event.model != self.for_model:
            return None
        picker = self._loaded.picker(event.sampling, event.seed, len(event.tokens))
        beside = share_device(self.ground.node, self._loaded.device, event)
        now = self.clock.now()

        def opened(core: DrafterCore) -> None:
            core.open(event, picker, beside)
            core.heard(event.job, now)

        return self._post(opened)

    def on_session_closed(self, event: SessionClosed) -> Effects:
        """Forget it."""
        return self._post(lambda core: core.close(event.session))

    def on_job_finished(self, event: JobFinished) -> Effects:
        """Its SessionClosed may have been lost."""
        return self._post(lambda core: core.close_job(event.job))

    def on_job_failed(self, event: JobFailed) -> Effects:
        """Its SessionClosed may have been lost."""
        return self._post(lambda core: core.close_job(event.job))

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Go on from there, or back."""
        now = self.clock.now()

        def accepted(core: DrafterCore) -> None:
            core.accept(event.job, event.at, event.tokens)
            core.heard(event.job, now)

        return self._post(accepted)

    def on_draft_granted(self, event: DraftGranted) -> Effects:
        """Run farther, or less far."""
        return self._post(lambda core: core.grant(event)) if event.drafter == self.instance else None

    def _post(self, command: Callable[[DrafterCore], None]) -> Effects:
        if self._runner is not None:
            self._runner.post(command)
        return None
