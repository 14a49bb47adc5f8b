"""The sessions of a drafter behind a server: those whose end was lost make room for others."""

from tests.backends.fakes.toy import TOY
from tests.backends.listener import MODEL
from twd.backends.drafter.sessions import SESSIONS_MAX, DraftSessions
from twd.kit.jobs.liveness import GIVEN_UP_MAX, SILENCE_S, JobLiveness
from twd.kit.tasks import TaskGroup
from twd.wire.base import InstanceId, JobId, NodeId, SessionId
from twd.wire.draft import SessionOpened
from twd.wire.job import TokensAccepted
from twd.wire.model import VocabFingerprint


class HandClock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return int(1000 * self.seconds)


def opened(name: str) -> SessionOpened:
    return SessionOpened(
        job=JobId(f"j-{name}"),
        session=SessionId(f"s-{name}"),
        model=MODEL,
        speculator=InstanceId("spec"),
        node=NodeId("n"),
        tokens=[1, 2, 3],
        vocab=VocabFingerprint(hash="toy", tokens=TOY.size),
    )


def sign_of_life(name: str, tokens: tuple[int, ...] = ()) -> TokensAccepted:
    return TokensAccepted(
        job=JobId(f"j-{name}"), attempt=1, session=SessionId(f"s-{name}"), at=3, index=0, tokens=list(tokens)
    )


def drafting_on(clock: HandClock) -> DraftSessions:
    return DraftSessions(InstanceId("d"), clock, TaskGroup("d", lambda *_: None), lambda _: None, lambda _: None)


def test_sessions_whose_end_was_lost_make_room() -> None:
    clock = HandClock()
    drafting = drafting_on(clock)
    for number in range(SESSIONS_MAX):
        drafting.open(opened(str(number)), by_tokens=True)
    drafting.open(opened("too many"), by_tokens=True)
    assert len(drafting) == SESSIONS_MAX
    clock.seconds = SILENCE_S
    assert drafting.accept(sign_of_life("0"))
    clock.seconds = SILENCE_S + 1
    drafting.open(opened("new"), by_tokens=True)
    assert len(drafting) == 2
    assert drafting.accept(sign_of_life("0", (4, 5)))
    assert not drafting.accept(sign_of_life("1", (4, 5))), "it lives, so it must be told anew"
    assert drafting.accept(sign_of_life("1", (6,))), "once is enough"


def test_what_was_given_up_is_remembered_for_a_while_only() -> None:
    liveness = JobLiveness()
    for number in range(GIVEN_UP_MAX + 1):
        liveness.hear(JobId(str(number)), 0.0)
    assert len(liveness.give_up(SILENCE_S + 1)) == GIVEN_UP_MAX + 1
    assert not liveness.returns(JobId("0"))
    assert liveness.returns(JobId("1"))
