"""What must hold in every world, and the witness that saw all that was said in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim import truth
from tests.sim.doubles import POISON, FakeSpeculator
from twd.bus.base import BusMessage
from twd.kit.jobs.owner import Fail, Finish
from twd.kit.service import LEASE_BUCKET, Service
from twd.speculator.service import SpeculatorService
from twd.wire.base import Event, InstanceId
from twd.wire.codec import Rejected, decode
from twd.wire.failures import FailureCode
from twd.wire.job import FinishReason, JobFailed, JobFinished, TokensAccepted
from twd.wire.service import ServiceFaulted, ServiceStopped

if TYPE_CHECKING:
    from tests.sim.edges import Diary
    from tests.sim.plan import Plan
    from tests.sim.world import World

DEADLINE_SLACK_S = 0.5
LONG_TEXT = 60
RECOVERY_S = 30.0
SHORT_DEADLINE_MS = 20_000
STORY_LINES_MAX = 150
TROUBLE = {
    FailureCode.WORKER_LOST,
    FailureCode.DEADLINE,
    FailureCode.NOBODY_HOME,
    FailureCode.BUSY,
    FailureCode.DRAINING,
    FailureCode.BUS_DOWN,
}


class Witness:
    """Hears every message as it is sent, before the network does anything to it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.heard: list[tuple[float, str, Event]] = []
        self.wrong: list[str] = []
        self._now = now
        self._stopped: set[InstanceId] = set()

    def see(self, node: str, message: BusMessage) -> None:
        """One message leaves a node."""
        if not message.subject.startswith(("twd.", "_INBOX.")):
            return
        event = decode(message.data)
        if isinstance(event, Rejected):
            self.wrong.append(f"{self._now():.3f} nonsense on {message.subject}: {event.reason}")
            return
        self.heard.append((self._now(), message.subject, event))
        if event.source in self._stopped:
            self.wrong.append(f"{self._now():.3f} {event.source} published {type(event).__name__} after it stopped")
        if isinstance(event, ServiceStopped):
            self._stopped.add(event.source)

    def story(self, plan: Plan, wrong: list[str]) -> str:
        """What went wrong, how to see it again, and what was said before."""
        jobs = {word.strip(":,") for line in wrong for word in line.split() if word.startswith("job")}
        told = [
            f"{at:9.3f} {event.source:28} {type(event).__name__:16} {_brief(event)}"
            for at, _, event in self.heard
            if not jobs or getattr(event, "job", "") in jobs or isinstance(event, ServiceStopped | ServiceFaulted)
        ]
        lines = [f"world {plan.seed} is broken; replay it with TWD_SIM_SEED={plan.seed}", *wrong, "faults:"]
        lines += [f"  {fault}" for fault in plan.faults]
        return "\n".join([*lines, "story:", *told[:STORY_LINES_MAX]])


def _brief(event: Event) -> str:
    names = ("job", "attempt", "attempts", "index", "tokens", "resume", "failure", "stats", "reason", "speculator")
    return " ".join(f"{name}={getattr(event, name)}" for name in names if getattr(event, name, None))


# -- while the world settles ---------------------------------------------------------------------


def jobs_in_hand(service: Service) -> list[str]:
    """What a speculator, real or not, has not brought to an end."""
    if isinstance(service, SpeculatorService):
        return [] if service._core is None else sorted(service._core.by_job)
    return sorted(service.works) if isinstance(service, FakeSpeculator) else []


def unsettled(world: World) -> list[str]:
    """Why the world is not at rest yet."""
    reasons = [f"{diary.job.job} has no end" for diary in world.diaries if diary.open]
    living = set()
    for unit in world.units.values():
        service = unit.service
        if service is None or not unit.alive or service.health.value != "ok" or service.fault is not None:
            reasons.append(f"{unit.name} is not up")
            continue
        living.add(service.instance)
        if held := jobs_in_hand(service):
            reasons.append(f"{unit.name} still holds {held}")
    bucket = world.broker.buckets.get(LEASE_BUCKET)
    leased = set() if bucket is None else set(bucket.live(world.loop.time()))
    if leased != living:
        reasons.append(f"leases {sorted(leased)} are not the living {sorted(living)}")
    return reasons


# -- at the end ----------------------------------------------------------------------------------


def the_witness_saw_nothing_wrong(world: World) -> list[str]:
    """Nothing is published by a stopped service, and nothing unreadable by anybody."""
    return world.witness.wrong


def the_loop_saw_no_errors(world: World) -> list[str]:
    """No callback and no forgotten task failed."""
    return world.loop.errors


def no_service_faulted_by_itself(world: World) -> list[str]:
    """Faults of the network are no reason for a fault in a handler; only a poisoned prompt is."""
    return [
        f"{event.source} faulted: {event.failure.message} in {event.during}"
        for _, _, event in world.witness.heard
        if isinstance(event, ServiceFaulted) and POISON not in event.failure.message
    ]


def every_job_ends_once(world: World) -> list[str]:
    """As its owner sees it: one end, and not before it was begun."""
    return [
        f"{diary.job.job} ended {len(diary.ends)} times"
        for diary in world.diaries
        if len(diary.ends) > 1 or (diary.open and not world.unsettled)
    ]


def every_text_is_true(world: World) -> list[str]:
    """A finished job has the whole text, a failed one a beginning of it."""
    wrong = []
    for diary in world.diaries:
        tokens, by_itself = truth.whole_text(diary.job)
        end = diary.ends[0][1] if diary.ends else None
        text = truth.text_of(diary.tokens) if isinstance(end, Finish) else truth.stream().feed(diary.tokens)
        if diary.text != text or diary.tokens != tokens[: len(diary.tokens)]:
            wrong.append(
                f"{diary.job.job} has a text that is not the target's: {diary.text} {diary.tokens} of {tokens}"
            )
        if isinstance(end, Finish):
            if diary.tokens != tokens:
                wrong.append(f"{diary.job.job} finished with {len(diary.tokens)} of {len(tokens)} tokens")
            if (end.event.reason is FinishReason.STOP) != by_itself:
                wrong.append(f"{diary.job.job} ended by {end.event.reason}")
    return wrong


def every_published_token_is_true(world: World) -> list[str]:
    """What a speculator publishes is the target's choice at that place, whatever was drafted."""
    texts = {diary.job.job: truth.whole_text(diary.job)[0] for diary in world.diaries}
    return [
        f"{at:.3f} {event.source} published a wrong piece of {event.job} at {event.index}: {event.tokens}"
        for at, _, event in world.witness.heard
        if isinstance(event, TokensAccepted)
        and event.job in texts
        and event.tokens != texts[event.job][event.index : event.index + len(event.tokens)]
    ]


def an_attempt_ends_once(world: World) -> list[str]:
    """Per attempt at a job, all speculators together publish at most one end."""
    ends = Counter(
        (event.job, event.attempt)
        for _, subject, event in world.witness.heard
        if isinstance(event, JobFinished | JobFailed) and subject.startswith("twd.")
    )
    return [f"{job} attempt {attempt} was ended {count} times" for (job, attempt), count in ends.items() if count > 1]


def nothing_follows_an_end(world: World) -> list[str]:
    """After the end of an attempt its speculator says no more about it."""
    ended: set[tuple[str, int]] = set()
    wrong = []
    for at, subject, event in world.witness.heard:
        if not isinstance(event, JobFinished | JobFailed | TokensAccepted) or not subject.startswith("twd."):
            continue
        key = (event.job, event.attempt)
        if isinstance(event, TokensAccepted):
            if key in ended:
                wrong.append(f"{at:.3f} {event.source} published tokens of {event.job} after its end")
        else:
            ended.add(key)
    return wrong


def deadlines_hold(world: World) -> list[str]:
    """An owner that runs tells its client in time, whatever its workers do."""
    wrong = []
    for diary in world.diaries:
        if diary.ends:
            late = diary.ends[0][0] - diary.begun - diary.job.deadline_ms / 1000 - _paused(world, diary)
            if late > DEADLINE_SLACK_S:
                wrong.append(f"{diary.job.job} ended {late:.3f} s after its deadline")
    return wrong


def _paused(world: World, diary: Diary) -> float:
    return sum(to - since for since, to in world.units[diary.edge].pauses)


def failures_have_a_reason(world: World) -> list[str]:
    """Without faults only poison, cancelling and short deadlines keep a job from its whole text."""
    wrong = []
    for diary in world.diaries:
        end = diary.ends[0][1] if diary.ends else None
        if not isinstance(end, Fail):
            continue
        code = end.failure.code
        if code is FailureCode.CANCELLED and diary.cancelled:
            continue
        peaceful = not world.plan.faults and all(job.prompt != POISON for job in world.plan.jobs)
        short = diary.job.deadline_ms < SHORT_DEADLINE_MS or len(truth.whole_text(diary.job)[0]) > LONG_TEXT
        if code not in (TROUBLE if not peaceful else {FailureCode.DEADLINE} if short else set()):
            wrong.append(f"{diary.job.job} failed for no reason: {end.failure}")
    return wrong


def lost_jobs_are_taken_up(world: World) -> list[str]:
    """A job that had time enough after the last fault is brought to its end by somebody."""
    quiet = world.plan.faults_end + RECOVERY_S
    return [
        f"{diary.job.job} failed {diary.ends[0][0] - world.plan.faults_end:.1f} s after the last fault: {end.failure}"
        for diary in world.diaries
        if diary.ends and isinstance(end := diary.ends[0][1], Fail) and diary.ends[0][0] > quiet
        if not diary.cancelled and end.failure.code is not FailureCode.CANCELLED
        if not any(job.prompt == POISON for job in world.plan.jobs)
        if len(truth.whole_text(diary.job)[0]) <= LONG_TEXT
    ]


def the_world_settles(world: World) -> list[str]:
    """After the faults: all jobs end, leases are the living, and a new job just works."""
    wrong = [f"not settled at {world.loop.time():.1f} s: {reason}" for reason in world.unsettled]
    if not world.unsettled and len(world.probes) != sum(name.startswith("edge") for name in world.units):
        wrong.append("an edge did not take the probe")
    for probe in world.probes:
        if not probe.ends or not isinstance(probe.ends[0][1], Finish):
            wrong.append(f"the probe {probe.job.job} did not finish: {probe.ends}")
    return wrong


def nothing_is_left(world: World) -> list[str]:
    """When all services have stopped there is no process, no task, no lease and no subscriber."""
    wrong = [f"{unit.name} did not end" for unit in world.units.values() if unit.alive]
    wrong += [f"task {name} is left" for name in world.loop.tasks_left()]
    bucket = world.broker.buckets.get(LEASE_BUCKET)
    if bucket is not None:
        wrong += [f"lease {key} is left" for key in bucket.live(world.loop.time())]
    keepers = {keeper.bus for keeper in world.keepers.values()}
    wrong += [f"a client on {client.node} is left" for client in world.broker.clients if client not in keepers]
    return wrong


INVARIANTS: tuple[Callable[[World], list[str]], ...] = (
    the_witness_saw_nothing_wrong,
    the_loop_saw_no_errors,
    no_service_faulted_by_itself,
    every_job_ends_once,
    every_text_is_true,
    every_published_token_is_true,
    an_attempt_ends_once,
    nothing_follows_an_end,
    deadlines_hold,
    failures_have_a_reason,
    lost_jobs_are_taken_up,
    the_world_settles,
    nothing_is_left,
)
