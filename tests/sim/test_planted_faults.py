"""The invariants see what they are for: each fault that is planted here breaks the one that is named."""

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from tests.signed import signed
from tests.sim.doubles import POISON, FakeSpeculator, Work
from tests.sim.edges import Submitter
from tests.sim.plan import draw_plan
from tests.sim.units import ServiceFactory
from tests.sim.world import DOUBLES, World
from twd.kit.jobs.owner import Deliver, JobOwner, OwnerAction
from twd.kit.service import Effects, Reply
from twd.wire.base import EventId
from twd.wire.codec import encode
from twd.wire.failures import FailureCode
from twd.wire.job import JobCancelled, JobFinished, JobSubmitted, TokensAccepted
from twd.wire.routes import subject_of
from twd.wire.service import ServiceExited, ServiceStopped

WORLDS_MAX = 600


class FinishesTwice(FakeSpeculator):
    """Says the end of a job again."""

    def emit(self, event: object, *, cause: EventId | None = None) -> None:
        super().emit(event, cause=cause)  # type: ignore[arg-type]
        if isinstance(event, JobFinished):
            super().emit(event, cause=cause)


class TakesRepeats(FakeSpeculator):
    """Forgets which attempts it has had."""

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        self.ended_attempts.clear()
        return super().on_job_submitted(event, reply)


class SpeaksAfterItsEnd(FakeSpeculator):
    """Has a last word after the last word."""

    async def stop(self, reason: str = "stopped") -> None:
        await super().stop(reason)
        late = ServiceStopped(source=self.instance, service=self.name, node=self.ctx.node, reason="again")
        self.bus.publish(subject_of(signed(late)), encode(signed(late)))


class BelievesDrafts(FakeSpeculator):
    """Publishes what was drafted without asking the target."""

    def _step(self, work: Work) -> None:
        drafted = work.drafts.pop(len(work.history), None)
        if drafted is None or not work.seed % 2:
            super()._step(work)
            return
        work.history.append(drafted)
        self._tell(work, [drafted], work.text.feed([drafted]))


class KeepsItsLease(FakeSpeculator):
    """Goes without giving its lease up."""

    async def _leave(self, reason: str) -> None:
        self._leases = None
        await super()._leave(reason)


class LeavesATask(FakeSpeculator):
    """Starts something that nobody owns."""

    async def setup(self) -> None:
        await super().setup()
        asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="stray")


class StumblesOverCancelling(FakeSpeculator):
    """Cannot bear that a job is unknown."""

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        del self.works[event.job]
        return None


class ForgetsTails(FakeSpeculator):
    """Never says what it held back."""

    def emit(self, event: object, *, cause: EventId | None = None) -> None:
        if isinstance(event, JobFinished):
            event = msgspec.structs.replace(event, tail="")
        super().emit(event, cause=cause)  # type: ignore[arg-type]


class CannotDrain(FakeSpeculator):
    """Fails while it finishes what it has in hand."""

    async def quiesce(self) -> None:
        await super().quiesce()
        raise RuntimeError("stuck")


class NeverResubmits(JobOwner):
    """Waits for the worker that is gone."""

    def _lost(self, why: str, now: float, code: FailureCode = FailureCode.WORKER_LOST) -> list[OwnerAction]:
        self._heard, self._hole_since = now, None
        return []


class AcceptsRepeats(JobOwner):
    """Does not look where a piece belongs."""

    def _collect(self, event: TokensAccepted, now: float) -> list[OwnerAction]:
        self.tokens += event.tokens
        self.place = len(self.tokens)
        return [Deliver(event)] if event.tokens else []


class ForgetsItsTokens(JobOwner):
    """Submits again from the beginning."""

    def _submit(self, now: float) -> list[OwnerAction]:
        self.tokens.clear()
        self.place = 0
        return super()._submit(now)


class EndsAgain(JobOwner):
    """Tells the end as often as it hears it."""

    def _finish(self, end: JobFinished) -> list[OwnerAction]:
        actions = super()._finish(end)
        return [*actions, actions[-1]]


class HasNoDeadline(JobOwner):
    """Never gives up."""

    def __init__(self, job: JobSubmitted, policy: object, now: float) -> None:
        super().__init__(job, policy, now)  # type: ignore[arg-type]
        self._deadline = float("1e9")


class GivesUpEarly(JobOwner):
    """Fails a job at the first trouble."""

    def _lost(self, why: str, now: float, code: FailureCode = FailureCode.WORKER_LOST) -> list[OwnerAction]:
        return self._fail(FailureCode.INTERNAL, why)


SPECULATORS = {
    FinishesTwice: "an_attempt_ends_once",
    TakesRepeats: "an_attempt_ends_once",
    SpeaksAfterItsEnd: "the_witness_saw_nothing_wrong",
    BelievesDrafts: "every_published_token_is_true",
    KeepsItsLease: "nothing_is_left",
    LeavesATask: "nothing_is_left",
    StumblesOverCancelling: "no_service_faulted_by_itself",
    ForgetsTails: "every_text_is_true",
    CannotDrain: "no_service_faulted_by_itself",
}
OWNERS = {
    NeverResubmits: "lost_jobs_are_taken_up",
    AcceptsRepeats: "every_text_is_true",
    ForgetsItsTokens: "every_text_is_true",
    EndsAgain: "every_job_ends_once",
    HasNoDeadline: "deadlines_hold",
    GivesUpEarly: "failures_have_a_reason",
}


def broken_invariants(services: Mapping[str, ServiceFactory], wanted: str) -> set[str]:
    """The invariants that break in the first world in which the wanted one does, or in all worlds."""
    seen: set[str] = set()
    for seed in range(WORLDS_MAX):
        seen |= {line.split(":", 1)[0] for line in World(draw_plan(seed, poison=POISON), services).play()}
        if wanted in seen:
            break
    return seen


LATE = (TakesRepeats,)
"""Caught only after hundreds of worlds."""


@pytest.mark.parametrize(
    ("planted", "invariant"),
    [
        pytest.param(planted, invariant, marks=[pytest.mark.thorough] if planted in LATE else [])
        for planted, invariant in SPECULATORS.items()
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_faulty_speculator_is_caught(planted: type[FakeSpeculator], invariant: str) -> None:
    assert invariant in broken_invariants({**DOUBLES, "speculator": planted}, invariant)


@pytest.mark.parametrize(("planted", "invariant"), OWNERS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_faulty_owner_is_caught(planted: type[JobOwner], invariant: str) -> None:
    class FaultyEdge(Submitter):
        make_owner = planted

    assert invariant in broken_invariants({**DOUBLES, "edge": FaultyEdge}, invariant)


def test_a_keeper_that_does_not_restart_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.units.BACKOFF_S", 1e6)
    assert "the_world_settles" in broken_invariants(DOUBLES, "the_world_settles")


def test_an_owner_that_is_not_told_of_exits_is_still_served() -> None:
    """Losing every ServiceExited costs time, no job: silence is noticed as well."""

    class DeafEdge(Submitter):
        def on_service_exited(self, event: ServiceExited) -> Effects:
            return None

    for seed in range(20):
        assert World(draw_plan(seed), {**DOUBLES, "edge": DeafEdge}).play() == []
