"""Whatever is said of a job, in whatever order: it has one end, and never a wrong text."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.jobs.owned_jobs import ONE, POLICY, failed, finished, queued, submitted, tokens
from tests.properties import examples
from twd.kit.jobs.owner import Deliver, Fail, Finish, JobOwner, OwnerAction, Release, Submit
from twd.wire.base import Event
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    JobSubmitted,
)


class Adversary:
    """Workers and a network that do as they like; the truth is `truth`."""

    def __init__(self, seed: int, length: int, deadline_ms: int) -> None:
        self.dice = random.Random(seed)
        self.truth = [self.dice.randrange(50) for _ in range(length)]
        self.now = 0.0
        self.owner = JobOwner(submitted(deadline_ms=deadline_ms), POLICY, self.now)
        self.sent: dict[int, list[Event]] = {}
        self.delivered: list[int] = []
        self.ends: list[Finish | Fail] = []
        self.attempts: list[int] = []

    def take(self, actions: list[OwnerAction]) -> None:
        for action in actions:
            assert not self.ends, "nothing follows the end"
            match action:
                case Submit(job):
                    assert job.resume == self.delivered
                    self.attempts.append(job.attempt)
                    self.sent[job.attempt] = self.events_of(job)
                case Deliver(event):
                    self.delivered += event.tokens
                case Finish() | Fail():
                    self.ends.append(action)
                case Release():
                    pass

    def events_of(self, job: JobSubmitted) -> list[Event]:
        events: list[Event] = [queued(job.attempt)]
        place = len(job.resume)
        while place < len(self.truth):
            step = self.dice.randint(1, 5)
            events.append(tokens(place, self.truth[place : place + step], attempt=job.attempt))
            place += step
        return [*events, finished(len(self.truth), job.attempt)]

    def step(self) -> None:
        attempt = self.dice.choice(self.attempts[-3:])
        waiting = self.sent[attempt]
        roll = self.dice.random()
        if roll < 0.6 and waiting:
            place = 0 if self.dice.random() < 0.9 else self.dice.randrange(len(waiting))
            event = waiting[place] if self.dice.random() < 0.1 else waiting.pop(place)
            if self.dice.random() > 0.05:
                self.take(self.owner.handle(event, self.now))
        elif roll < 0.65:
            code = self.dice.choice(list(FailureCode))
            self.take(self.owner.unanswered(attempt, Failure(code=code, message="x"), self.now))
        elif roll < 0.7:
            self.take(self.owner.worker_gone(ONE, self.now))
        elif roll < 0.71:
            self.take(self.owner.handle(failed(self.dice.choice(list(FailureCode)), attempt), self.now))
        else:
            self.now += self.dice.choice((0.01, 0.1, 0.3, 1.0))
            self.take(self.owner.tick(self.now))


@examples(300)
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 60),
    deadline_ms=st.sampled_from([500, 5_000, 60_000]),
    steps=st.sampled_from([0, 10, 40, 400]),
)
def test_exactly_one_end_and_never_a_wrong_text(seed: int, length: int, deadline_ms: int, steps: int) -> None:
    world = Adversary(seed, length, deadline_ms)
    world.take(world.owner.begin(0.0))
    for _ in range(steps):
        world.step()
    while not world.owner.ended:
        assert world.owner.due > world.now
        world.now = world.owner.due
        before = world.owner.due
        world.take(world.owner.tick(world.now))
        assert world.owner.ended or world.owner.due > before, "a tick moves on"
    assert len(world.ends) == 1
    assert world.delivered == world.truth[: len(world.delivered)]
    assert world.attempts == sorted(set(world.attempts))
    if isinstance(world.ends[0], Finish):
        assert world.delivered == world.truth
