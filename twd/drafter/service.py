"""A drafter with a draft model of its own, on the bus. The decisions are in core.py, the engine's thread in
runner.py."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from twd.decoding.cost import CostCurve
from twd.decoding.steps import OnCards
from twd.decoding.window import Target
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules
from twd.drafter.openings import PendingSession, PendingSessions
from twd.drafter.runner import DraftRunner, Judge
from twd.drafter.thread_choice import ThreadChoice
from twd.drafter.told_experts import RemembersChoices
from twd.drafting.session_models import SessionModels, drafters_pattern
from twd.drafting.unprofitable_targets import UnprofitableTargets
from twd.kit.model_service import ModelService
from twd.kit.progress import Progress
from twd.kit.service import Effects, ServiceContext
from twd.kit.tasks import soon
from twd.process.core_plan import CoreShare
from twd.process.core_registry import OwnCores
from twd.process.platform import yield_to_others
from twd.wire.base import Event, ModelId, SessionId
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
from twd.wire.job import JobFailed, JobFinished, TokensAccepted
from twd.wire.leases.base import CoreFacts
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.model import ModelFailed, ModelReady, VocabFingerprint

_READY = "ready"
YIELDING_RANK = 5
"""Nice levels that a drafter adds on cores it shares: it gets a quarter of a core that others want, too."""


class DraftModel(Protocol):
    """What the service needs of a draft model in memory."""

    @property
    def vocab(self) -> VocabFingerprint:
        """The vocabulary of its tokens."""
        ...

    @property
    def target(self) -> Target:
        """The model that computes its drafts."""
        ...

    @property
    def cost(self) -> CostCurve:
        """The cost curve of passes."""
        ...

    @property
    def device(self) -> DeviceKind:
        """The kind of device on which it computes."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of its weights; 0: not known."""
        ...

    @property
    def judge(self) -> Judge:
        """The function that gives the confidence of a draft, and the second choice."""
        ...

    def follow(self, event: SessionOpened) -> DraftRules:
        """Returns what makes the target's choices on this model's logits. Call it from any thread; it may take long
        where the text has a grammar."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


Load = Callable[[Progress], DraftModel]


class DrafterService(ModelService[DraftModel]):
    """Drafts for every session whose model has the same vocabulary."""

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
    writes = (DraftProposed, DrafterAttached, DrafterDetached, ModelFailed)

    tick_s = 1.0

    def pattern(self, event_type: type[Event]) -> str:
        """Returns the subject pattern of an event: only what is for this drafter, or for all drafters of its model."""
        return drafters_pattern(event_type, self.instance, self.for_model)

    def __init__(
        self, ctx: ServiceContext, model: ModelId, load: Load, for_model: str = "", cores: OwnCores | None = None
    ) -> None:
        """`cores`: this process in the core registry of the computer; None: it uses no CPU cores that others use."""
        super().__init__(ctx, model)
        self._cores = cores
        self.for_model = for_model
        self._load = load
        self._loaded: DraftModel | None = None
        self._runner: DraftRunner | None = None
        self._core: DrafterCore | None = None
        self._openings: PendingSessions | None = None
        self._unprofitable = UnprofitableTargets()
        self._proposed = 0
        self._alone_ms = 0.0
        """Milliseconds for one draft, measured before the first session; or fewer, if a later one took less, as others
        may have loaded their models meanwhile."""
        self._plan = 0
        """How often its share of the cores has changed."""
        self._models = SessionModels()

    async def loader(self) -> Load:
        """Returns what loads the draft model."""
        return self._load

    def under_way(self) -> float | None:
        """Returns when the current step began; None: no step runs."""
        return self._runner.under_way if self._runner is not None else None

    async def open_for_work(self, loaded: DraftModel) -> None:
        """Start the engine's thread and offer drafts to speculators with the same vocabulary."""
        loop = asyncio.get_running_loop()
        self._loaded, self._openings = loaded, PendingSessions(loaded.follow)
        target, cost = loaded.target, loaded.cost
        tries = cost.ms if target.can_rollback else None
        core = self._core = DrafterCore(self.instance, target.n_slots, target.ctx_size, tries, target.window_max)
        core.token_ms = self._alone_ms = cost.ms(1)
        core.chosen = loaded.chosen if isinstance(loaded, RemembersChoices) else None
        self._runner = DraftRunner(
            core,
            target,
            loaded.judge,
            deliver=lambda proposals: soon(loop, self._propose, proposals),
            failed=lambda error: soon(loop, self.fail, error, "engine"),
            lost=lambda: soon(loop, self._attach),
            cost=cost,
        )
        cards = loaded.cards if isinstance(loaded, OnCards) else ()
        if self._cores is not None and (cards or loaded.device is DeviceKind.CPU):
            self._take_share(self._cores.enter(self.instance, cards))
        self._runner.start()
        self.is_ready(self._unprofitable.text or _READY)
        await self.renew_lease()
        self._attach()

    def tick(self, now: float) -> Effects:
        """Check which processes use the same cores now, and whether drafts are quicker than they were alone."""
        self._look_at_cores()
        if self._core is not None:
            self._alone_ms = min(self._alone_ms, self._core.token_ms)
        return None

    def _look_at_cores(self) -> None:
        share = self._cores.look() if self._cores is not None else None
        if share is not None:
            self._plan += 1
            self._take_share(share)
            self._attach()  # the measured pace is from other circumstances

    def _take_share(self, share: CoreShare) -> None:
        """Draft with these threads from the next pass on; the change is made on the engine's thread."""
        assert self._runner is not None
        assert self._cores is not None
        if share.on_card:
            self.log.info("drafts on a card; beside it: %s", ", ".join(share.beside) or "nobody")
            self._runner.post(lambda core: core.doubt_pace())
            return
        runner, choice = self._runner, ThreadChoice.of(share.threads, *self._cores.limits)
        self.log.info("drafts with %d threads; beside it: %s", share.threads, ", ".join(share.beside) or "nobody")

        def use(core: DrafterCore) -> None:
            yield_to_others(YIELDING_RANK if share.yields else 0)
            core.doubt_pace()
            runner.use_threads(choice)

        runner.post(use)

    def _attach(self) -> None:
        if self._loaded is None or self._core is None:
            return
        self.emit(
            DrafterAttached(
                drafter=self.instance,
                node=self.ctx.node,
                model=self.model,
                vocab=self._loaded.vocab,
                device=self._loaded.device,
                token_ms=round(self._core.token_ms, 3),
                for_model=ModelId(self.for_model),
                plan=self._plan,
                size_bytes=self._loaded.size_bytes,
                yields=self._yields(),
            )
        )

    def _yields(self) -> bool:
        share = self._cores.share if self._cores is not None else None
        return share is not None and share.yields

    def _propose(self, proposals: list[DraftProposed]) -> None:
        for proposal in proposals:
            self._proposed += len(proposal.tokens)
            self.emit(self._models.of(proposal))

    def facts(self) -> DrafterLeaseFacts:
        """Returns what `twd status` shows of this drafter."""
        facts = DrafterLeaseFacts(
            model=self.model,
            ready=self._core is not None,
            for_model=self.for_model,
            doubt=self._unprofitable.text,
            core_share=self._core_share(),
        )
        if self._core is None:
            return facts
        return replace(
            facts,
            sessions=len(self._core.drafts),
            token_ms=round(self._core.token_ms, 2),
            alone_ms=round(self._alone_ms, 2),
            proposed=self._proposed,
        )

    def _core_share(self) -> CoreFacts | None:
        """Returns its share of the cores, with its current number of threads."""
        share = self._cores.facts() if self._cores is not None else None
        choice = self._runner.choice if self._runner is not None else None
        return share if share is None or choice is None else replace(share, threads=choice.now)

    async def teardown(self) -> None:
        """Detach and free the model; sessions go on without these drafts."""
        if self._cores is not None:
            self._cores.leave()
        if self._runner is not None:
            self.emit(DrafterDetached(drafter=self.instance, reason="stopped"))
            if not await asyncio.to_thread(self._runner.stop):
                self.log.error("the engine's thread did not end, so the model's memory is left to it")
                return
        if self._openings is not None and not await self._openings.close():
            self.log.error("a grammar is still being made, so the model's memory is left to it")
            return
        if self._loaded is not None:
            self._loaded.close()

    # -- events --------------------------------------------------------------------------------

    def on_model_ready(self, event: ModelReady) -> Effects:
        """Offer drafts to a speculator that has started and does not know this drafter."""
        self._attach()
        return None

    def on_drafter_checked(self, event: DrafterChecked) -> Effects:
        """Take a speculator's report whether this drafter pays."""
        if event.drafter == self.instance:
            self._unprofitable.hear(event)
            self.note = self._unprofitable.text or _READY
            if not event.pays:
                self.log.warning("drafting for %s will not pay: %s", event.target, event.advice)
        return None

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """Draft for a session, if it has the same vocabulary."""
        if self._runner is None or self._loaded is None or event.vocab.hash != self._loaded.vocab.hash:
            return None
        if self.for_model and event.model != self.for_model:
            return None
        self._models.hear(event)
        if event.grammar is None:
            return self._open_at_once(event, self._loaded)
        opening = self._openings.take(event) if self._openings is not None else None
        if self._openings is not None and opening is not None:
            self.tasks.start(f"open {event.session}", self._open_later(self._openings, opening))
        return None

    def _open_at_once(self, event: SessionOpened, loaded: DraftModel) -> Effects:
        try:
            return self._open(event, loaded.follow(event))
        except TwdError as error:
            return self._cannot_draft(event, error)

    async def _open_later(self, openings: PendingSessions, opening: PendingSession) -> None:
        """Open a session after its grammar is prepared: that takes a moment, for a model's first grammar a second.
        Events missed meanwhile are published again."""
        try:
            following = await openings.following(opening)
        except TwdError as error:
            self._cannot_draft(opening.event, error)
            return
        if following is not None:
            self._open(opening.event, following)

    def _cannot_draft(self, event: SessionOpened, error: TwdError) -> Effects:
        self.log.warning("cannot draft for job %s: %s", event.job, error)
        return None

    def _open(self, event: SessionOpened, following: DraftRules) -> Effects:
        assert self._loaded is not None
        self._look_at_cores()
        beside = share_device(self.ctx.node, self._loaded.device, event)
        now, yields = self.clock.now(), self._yields()

        def opened(core: DrafterCore) -> None:
            core.open(event, following, beside, yields)
            core.heard(event.job, now)

        return self._post(opened)

    def on_session_closed(self, event: SessionClosed) -> Effects:
        """Forget a session."""
        self._models.forget(event.session)
        self._drop_opening(event.session)
        return self._post(lambda core: core.close(event.session))

    def on_job_finished(self, event: JobFinished) -> Effects:
        """Its SessionClosed may have been lost."""
        self._drop_opening(event.session)
        return self._post(lambda core: core.close_job(event.job))

    def on_job_failed(self, event: JobFailed) -> Effects:
        """Its SessionClosed may have been lost."""
        self._drop_opening(event.session)
        return self._post(lambda core: core.close_job(event.job))

    def _drop_opening(self, session: SessionId) -> None:
        if self._openings is not None:
            self._openings.drop(session)

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Pass accepted tokens to the core, which continues its drafts or drops them."""
        now = self.clock.now()

        def accepted(core: DrafterCore) -> None:
            core.accept(event.job, event.at, event.tokens)
            core.heard(event.job, now)

        return self._post(accepted)

    def on_draft_granted(self, event: DraftGranted) -> Effects:
        """Take a new credit."""
        return self._post(lambda core: core.grant(event)) if event.drafter == self.instance else None

    def _post(self, command: Callable[[DrafterCore], None]) -> Effects:
        if self._runner is not None:
            self._runner.post(command)
        return None
