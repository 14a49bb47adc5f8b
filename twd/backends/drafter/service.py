"""Another program's server as a drafter: it reads the accepted text and lets the server generate ahead of it."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from twd.backends.clients.base import Backend, Capabilities, CompletionWish
from twd.backends.clients.circuit_breaker import BreakerState, CircuitBreaker
from twd.backends.clients.facts import fingerprint
from twd.backends.drafter.sessions import DraftSessions
from twd.bus.base import BusError
from twd.drafting.session_models import SessionModels, drafters_pattern
from twd.drafting.unprofitable_targets import UnprofitableTargets
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Service, ServiceContext
from twd.kit.tasks import every
from twd.wire.base import Event, ModelId
from twd.wire.draft import (
    DeviceKind,
    DrafterAttached,
    DrafterChecked,
    DrafterDetached,
    DraftGranted,
    DraftProposed,
    SessionClosed,
    SessionOpened,
)
from twd.wire.failures import TwdError
from twd.wire.job import JobFailed, JobFinished, Prompt, TokensAccepted
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.model import ModelFailed, ModelReady
from twd.wire.service import Health, ServiceLease, read_lease

WATCH_S: Final = 1.0
COMPARE_MIN: Final = 12
"""At least this many tokens must be equal before a server is taken to have the target's vocabulary."""
PARDON: Final = 0.5
"""A success makes up for this many failures. A drafter that fails half of the time helps little, and it may pause:
sessions run on without it.
"""
_TRIAL: Final = CompletionWish(prompt=Prompt(text="Once upon a time there was a little"), max_tokens=24)

Open = Callable[[], Awaitable[Backend]]


class RemoteDrafter(Service):
    """Guesses by text, or by tokens where the server turns out to speak the target's. Nobody ever waits for it.

    It always requests the most likely text, at any temperature: the target's random numbers are not known here, so no
    other guess is better.
    """

    name = "drafter"
    reads = (
        SessionOpened,
        SessionClosed,
        TokensAccepted,
        DraftGranted,
        DrafterChecked,
        DrafterDetached,
        JobFinished,
        JobFailed,
        ModelReady,
    )
    writes = (DraftProposed, DrafterAttached, DrafterDetached, ModelFailed)

    def __init__(
        self,
        ctx: ServiceContext,
        model: ModelId,
        open_backend: Open,
        *,
        for_model: str = "",
        fallback: bool = False,
        failures: int = 3,
        cooldown_s: float = 30.0,
    ) -> None:
        super().__init__(ctx)
        self.model = model
        self.for_model = for_model
        self.fallback = fallback
        self._open = open_backend
        self._backend: Backend | None = None
        self._can: Capabilities | None = None
        self._breaker = CircuitBreaker(failures, cooldown_s, PARDON)
        self._models = SessionModels()
        self._drafting = DraftSessions(self.instance, self.clock, self.tasks, self._propose, self._ended)
        self._speaks: dict[str, bool] = {}
        self._unprofitable = UnprofitableTargets()
        self._attached = False
        self._standing_by = fallback
        self._token_ms = 0.0
        self._told = ""
        self.note = "asking the server what it can"

    def pattern(self, event_type: type[Event]) -> str:
        """Only events for this drafter, or for all drafters of its model."""
        return drafters_pattern(event_type, self.instance, self.for_model)

    def _propose(self, proposal: DraftProposed) -> None:
        self.emit(self._models.of(proposal))

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start at once, and then check the server regularly."""
        await super().start()
        if self.ended.is_set():
            return
        self.health = Health.STARTING
        self.tasks.start("tend", self._tend())

    async def _tend(self) -> None:
        await self._look()
        await every(WATCH_S, self._look)

    async def _look(self) -> None:
        """Attach if the server answers and, for a fallback, no better drafter works; detach a fallback that is not
        needed.
        """
        if self._can is None or self._breaker.state(self.clock.now()) is BreakerState.TRYING:
            await self._probe()
        if self.fallback:
            self._standing_by = await self._others_draft()
        ready = self._can is not None and self._breaker.state(self.clock.now()) is BreakerState.CLOSED
        if ready and not self._standing_by:
            await self._attach()
        elif self._standing_by:
            await self._detach("others draft")

    async def _probe(self) -> None:
        call = self._breaker.enter(self.clock.now()) if self._can is not None else None
        if self._can is not None and call is None:
            return
        try:
            if self._backend is None:
                self._backend = self._drafting.backend = await self._open()
            can = await self._backend.probe()
            self._token_ms = await self._measure(self._backend)
        except TwdError as error:
            self._breaker.failed(self.clock.now(), str(error), call)
            self._away(error)
            return
        self._breaker.succeeded()
        self._can, self._told = can, ""
        self._speaks.clear()  # it may have come back with another model
        if self._standing_by:
            self.health, self.note = Health.OK, f"{can.kind} {can.model!r} stands by while others draft"

    async def _measure(self, backend: Backend) -> float:
        """Milliseconds for a token, measured on a short text; raises if the server cannot continue raw texts."""
        times = []
        async with aclosing(backend.stream(_TRIAL)) as pieces:
            async for piece in pieces:
                if piece.text or piece.tokens:
                    times.append(self.clock.now())
        return 1000 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0

    def _away(self, error: TwdError) -> None:
        self.health, self.note = Health.DEGRADED, error.failure.with_advice
        if self._told != str(error):
            self._told = str(error)
            self.log.warning("no drafts from %s: %s", self.model, self.note)
            self.emit(ModelFailed(model=self.model, node=self.ctx.node, failure=error.failure))

    async def _others_draft(self) -> bool:
        """Whether a drafter that is not a fallback works for the same model now."""
        try:
            leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            entries = await leases.entries()
        except BusError:
            return self._standing_by
        others = (read_lease(entry.value, entry.key) for entry in entries if entry.key != self.instance)
        return any(other is not None and self._is_better(other) for other in others)

    def _is_better(self, lease: ServiceLease) -> bool:
        other = lease.told(DrafterLeaseFacts)
        if other is None or not other.ready or other.fallback:
            return False
        return other.for_model in ("", self.for_model) or not self.for_model

    async def _attach(self) -> None:
        if self._can is None or self._attached:
            return
        self._attached = True
        self._tell_attached(self._can)
        self.health = Health.OK
        self.note = self._work_note(self._can)
        await self.renew_lease()

    def _work_note(self, can: Capabilities) -> str:
        return self._unprofitable.text or f"{can.kind} {can.model!r} drafts, about {self._token_ms:.1f} ms a token"

    def _tell_attached(self, can: Capabilities) -> None:
        self.emit(
            DrafterAttached(
                drafter=self.instance,
                node=self.ctx.node,
                model=self.model,
                vocab=fingerprint(can),
                by_text=True,
                device=DeviceKind.ELSEWHERE,
                token_ms=round(self._token_ms, 3),
                for_model=ModelId(self.for_model),
            )
        )

    async def _detach(self, reason: str) -> None:
        """Stop drafting; the sessions run on without these drafts."""
        if not self._attached:
            return
        self._attached = False
        self.emit(DrafterDetached(drafter=self.instance, reason=reason))
        self._drafting.close_all()
        await self.renew_lease()

    async def teardown(self) -> None:
        """Detach and close the connection."""
        await self._detach("stopped")
        if self._backend is not None:
            await self._backend.close()

    def facts(self) -> DrafterLeaseFacts:
        """What `twd status` and other drafters read about this one."""
        can = self._can
        return DrafterLeaseFacts(
            model=self.model,
            ready=self._attached,
            for_model=self.for_model,
            fallback=self.fallback,
            sessions=len(self._drafting),
            proposed=self._drafting.proposed,
            token_ms=round(self._token_ms, 2),
            doubt=self._unprofitable.text,
            breaker=self._breaker.state(self.clock.now()).value,
            backend=can.kind if can is not None else "",
            upstream_model=can.model if can is not None else "",
            speaks_tokens=can is not None and any(self._speaks.values()),
        )

    # -- events --------------------------------------------------------------------------------

    def on_model_ready(self, event: ModelReady) -> Effects:
        """A speculator has started: it does not know this drafter yet."""
        if self._attached and self._can is not None:
            self._tell_attached(self._can)
        return None

    def on_drafter_checked(self, event: DrafterChecked) -> Effects:
        """A speculator says whether this drafter makes its target faster."""
        if event.drafter == self.instance:
            self._unprofitable.hear(event)
            if self._attached and self._can is not None:
                self.note = self._work_note(self._can)
            if not event.pays:
                self.log.warning("drafting for %s will not pay: %s", event.target, event.advice)
        return None

    def on_drafter_detached(self, event: DrafterDetached) -> Effects:
        """Another drafter left: a fallback checks at once whether it is needed."""
        if self.fallback and event.drafter != self.instance and self._can is not None:
            self.tasks.start("look", self._look())
        return None

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """Start drafting for a session."""
        if not self._attached or (self.for_model and event.model != self.for_model):
            return None
        self._models.hear(event)
        speaks = self._speaks.get(event.vocab.hash)
        if speaks is None and event.text and len(event.tokens) >= COMPARE_MIN:
            self._speaks[event.vocab.hash] = False  # until the comparison says otherwise
            self.tasks.start("compare", self._compare(event))
        self._drafting.open(event, by_tokens=bool(speaks))
        return None

    async def _compare(self, event: SessionOpened) -> None:
        """Whether the server splits a text into the same tokens as the target. If so, later sessions work on tokens."""
        if self._backend is None or self._can is None or not self._can.tokens:
            return
        try:
            tokens = await self._backend.tokenize(event.text, special=True)
        except TwdError as error:
            self.log.info("tokens cannot be compared: %s", error)
            self._speaks.pop(event.vocab.hash, None)
            return
        self._speaks[event.vocab.hash] = tokens == list(event.tokens)

    def on_session_closed(self, event: SessionClosed) -> Effects:
        """Stop drafting for a session."""
        self._models.forget(event.session)
        self._drafting.close(event.session)
        return None

    def on_job_finished(self, event: JobFinished) -> Effects:
        """Close the job's session, in case SessionClosed was lost."""
        self._drafting.close_job(event.job)
        return None

    def on_job_failed(self, event: JobFailed) -> Effects:
        """Close the job's session, in case SessionClosed was lost."""
        self._drafting.close_job(event.job)
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Continue after the accepted tokens; drop a draft that was wrong."""
        if not self._drafting.accept(event) and self._can is not None:
            self._tell_attached(self._can)  # the speculator then announces its sessions again
        return None

    def on_draft_granted(self, event: DraftGranted) -> Effects:
        """The speculator changed the credit of a session."""
        if event.drafter == self.instance:
            self._drafting.grant(event.session, event.credit)
        return None

    def _ended(self, error: TwdError | None) -> None:
        """A request ended. A failure only costs speed; after many failures the server gets no requests for a while."""
        if error is None:
            self._breaker.succeeded()
            return
        self.log.info("a draft failed: %s", error)
        if self._breaker.failed(self.clock.now(), str(error)):
            self._away(error)
            self.tasks.start("leave", self._detach(str(error)))
