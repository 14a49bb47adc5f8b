"""Drafters on the target's own cores: what counts as their pace, as their rest, and in the race with plain steps."""

from dataclasses import replace

from msgspec import structs

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, text_of
from twd.drafting.calibration import Calibration
from twd.kit.effects import Publish
from twd.speculator.core.ab_test import SAMPLE_STEPS, SpeculationABTest
from twd.speculator.core.consensus import COUNTING_S, LONGEST_PASSES, SLACK, Consensus
from twd.speculator.core.session import Session
from twd.speculator.core.window_size import FLOOR_LEAST
from twd.speculator.drafters.drafter_link import WARMING, AttachedDrafter, DrafterLink
from twd.speculator.drafters.pool import RECORDS_MAX, STALE_S
from twd.wire.base import InstanceId, NodeId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.job import Speculation
from twd.wire.prefix import prefix_hash

NAME = InstanceId("d")
PROMPT = [3, 4, 5, 6]
PACE_MS = 5.0


class Beside:
    """A core with one session, past the plain steps of the race, and a drafter on the same cores."""

    def __init__(self) -> None:
        self.target = FakeTarget()
        self.core = make_core(self.target, ngram=False)
        self.core.attach(AttachedDrafter(NAME, NodeId("here"), beside=True, token_ms=PACE_MS), 0.0)
        self.driver = Driver(self.core, self.target)
        self.driver.submit(job(max_tokens=200, ignore_eos=True), PROMPT)
        while self.session.generated < SAMPLE_STEPS + 3 or not self.link.credit:
            self.driver.turn()

    @property
    def session(self) -> Session:
        return next(iter(self.core.by_id.values()))

    @property
    def link(self) -> DrafterLink:
        return self.session.links[NAME]

    @property
    def pace_ms(self) -> float:
        return self.core.drafter_pool.drafters[NAME].token_ms

    def drafted(self, before: int = 0, *, count: int = 0, more: bool = False, draft_ms: float = 0.0) -> None:
        """A true guess comes, made when the text was so many tokens shorter."""
        history = self.session.tokens[: len(self.session.tokens) - before]
        count = count or max(1, self.link.credit)
        event = DraftProposed(
            session=self.session.id,
            drafter=NAME,
            at=len(history),
            prefix=prefix_hash(history),
            tokens=text_of(history, count),
            confidence=[0.9] * count,
            more=more,
            draft_ms=draft_ms or count * PACE_MS,
        )
        self.core.draft(event, event.tokens, self.driver.now)


def test_records_of_those_who_are_gone_are_kept_for_a_while_and_not_without_end() -> None:
    both = Beside()
    records = both.core.drafter_pool.calibrations
    records[NAME] = Calibration()
    for number in range(2 * RECORDS_MAX):
        records[f"stranger {number}"] = Calibration()
    both.core.drafter_pool.join(both.session, both.driver.now)
    assert len(records) == RECORDS_MAX
    assert NAME in records
    assert f"stranger {2 * RECORDS_MAX - 1}" in records


def test_a_drafter_that_has_not_heard_of_the_last_tokens_does_not_rest() -> None:
    both = Beside()
    both.drafted(before=1, count=2)
    assert not both.link.resting, "it will go on as soon as it hears what was accepted"
    plan = both.core.plan(both.driver.now)
    assert not plan.windows, "so it is worth a wait"
    assert plan.wake_at is not None
    both.drafted()
    assert len(both.core.plan(both.driver.now).windows) == 1


def test_its_pace_is_what_it_takes_while_the_target_rests() -> None:
    both = Beside()
    both.drafted()
    both.target.submit(both.core.plan(both.driver.now).windows)
    both.drafted(draft_ms=1000.0)
    assert both.pace_ms == PACE_MS, "the target computed meanwhile"
    both.driver._verdicts(1)
    both.drafted(before=1, draft_ms=1000.0)
    assert both.pace_ms == PACE_MS, "it drafted while the target computed"
    both.drafted(draft_ms=1000.0)
    assert both.core.drafter_pool.drafters[NAME].token_ms > PACE_MS


def test_cycles_in_which_a_drafter_reads_the_text_first_are_no_part_of_the_race() -> None:
    both = Beside()
    race, link = both.core.drafter_pool.race, both.link
    link.warming = WARMING
    counted = race.drafted.cycles
    both.drafted()
    both.driver.turn()
    assert race.drafted.cycles == counted, "the cycle in which it is heard first is as long as its reading took"
    assert link.warming == 0
    both.drafted()
    both.driver.turn()
    assert race.drafted.cycles > counted


def test_a_drafter_that_is_never_heard_counts_soon() -> None:
    both = Beside()
    both.link.warming = WARMING
    counted, generated = both.core.drafter_pool.race.drafted.cycles, both.session.generated
    while both.session.generated <= generated + WARMING:
        both.driver.turn()
    assert both.core.drafter_pool.race.drafted.cycles > counted


ELSEWHERE = InstanceId("e")


def with_another(both: Beside, token_ms: float) -> DrafterLink:
    """Somebody elsewhere drafts, too, and is heard once."""
    both.core.attach(
        AttachedDrafter(ELSEWHERE, NodeId("there"), beside=False, token_ms=token_ms, lead_ms=1.0), both.driver.now
    )
    both.core.drafter_pool.join(both.session, both.driver.now)
    link = both.session.links[ELSEWHERE]
    event = DraftProposed(
        session=both.session.id,
        drafter=ELSEWHERE,
        at=len(both.session.tokens),
        prefix=prefix_hash(both.session.tokens),
        tokens=text_of(both.session.tokens, 2),
        confidence=[0.9] * 2,
        draft_ms=2 * token_ms,
    )
    both.core.draft(event, event.tokens, both.driver.now + 0.001)
    assert link.heard_at > 0
    return link


def test_it_rests_while_somebody_elsewhere_guesses_as_well() -> None:
    both = Beside()
    link = with_another(both, PACE_MS)
    both.core.drafter_pool.grant(both.session, both.driver.now)
    assert not both.link.credit
    assert link.credit
    link.late = 2  # it fell silent
    both.core.drafter_pool.grant(both.session, both.driver.now)
    assert both.link.credit


def test_it_goes_on_beside_somebody_who_is_much_slower() -> None:
    both = Beside()
    with_another(both, 100 * PACE_MS)
    both.core.drafter_pool.grant(both.session, both.driver.now)
    assert both.link.credit


def test_who_rests_is_not_woken_when_a_session_is_told_anew() -> None:
    both = Beside()
    link = with_another(both, PACE_MS)
    both.core.drafter_pool.grant(both.session, both.driver.now)
    assert not both.link.credit
    both.core.effects()
    both.core.attach(
        both.core.drafter_pool.drafters[ELSEWHERE], both.driver.now
    )  # it lost something, and asks to be told anew
    told = [effect.event for effect in both.core.effects() if isinstance(effect, Publish)]
    credits = {event.drafter: event.credit for event in told if isinstance(event, SessionOpened)}
    assert credits == {ELSEWHERE: link.credit, NAME: 0}


def lose(race: SpeculationABTest) -> None:
    """Drafters make the text slower than plain steps."""
    for _ in range(50):
        race.add(True, 1, 1000.0)
    race.add(False, 1, 10.0)
    assert race.lost


def test_one_whose_share_of_the_cores_changed_is_tried_anew() -> None:
    both = Beside()
    drafter, link, race = both.core.drafter_pool.drafters[NAME], both.link, both.core.drafter_pool.race
    drafter.token_ms, drafter.silent, link.look_at, link.late = 500.0, True, 10_000, 2
    lose(race)
    both.core.attach(AttachedDrafter(NAME, NodeId("here"), beside=True, token_ms=PACE_MS), both.driver.now)
    assert drafter.token_ms == 500.0, "it only says again that it is there"
    both.core.attach(AttachedDrafter(NAME, NodeId("here"), beside=True, token_ms=PACE_MS, plan=1), both.driver.now)
    assert not race.lost
    assert (drafter.token_ms, drafter.silent, link.late) == (PACE_MS, False, 0)
    both.core.drafter_pool.grant(both.session, both.driver.now)
    assert link.useful


def test_after_a_long_rest_who_lost_is_tried_again() -> None:
    both = Beside()
    drafter_pool = both.core.drafter_pool
    lose(drafter_pool.race)
    drafter_pool.join(both.session, both.driver.now + STALE_S / 2)
    assert drafter_pool.race.lost
    drafter_pool.join(both.session, both.driver.now + 2 * STALE_S)
    assert not drafter_pool.race.lost


def test_it_makes_no_more_drafts_than_the_text_can_take() -> None:
    both = Beside()
    for left in (9, 4, 2, 1):
        both.session.job = structs.replace(both.session.job, max_tokens=both.session.generated + left)
        both.core.drafter_pool.grant(both.session, both.driver.now)
        assert both.link.credit <= left - 1
    assert not both.link.credit


def test_one_beside_is_told_how_sure_it_must_be() -> None:
    both = Beside()
    link = with_another(both, 100 * PACE_MS)
    both.link.credit = link.credit = 0
    grants = {grant.drafter: grant for grant in both.core.drafter_pool.grant(both.session, both.driver.now)}
    assert grants[NAME].floor > grants[ELSEWHERE].floor == FLOOR_LEAST


def test_who_is_beside_the_target_votes_with_its_whole_run() -> None:
    both = Beside()
    pool, drafter = both.core.drafter_pool, both.core.drafter_pool.drafters[NAME]
    assert pool.vote_ms(both.session) == drafter.lead_ms + both.link.credit * drafter.token_ms
    assert pool.voted_at(both.session) is None
    both.driver.now += 0.01
    both.drafted()
    assert pool.voted_at(both.session) == both.link.heard_at
    both.link.credit = 0
    assert pool.vote_ms(both.session) == 0.0


def test_where_all_have_voted_the_count_alone_is_awaited() -> None:
    both = Beside()
    consensus = Consensus(replace(both.core.limits, consensus="majority", unread=16))
    consensus.heard = True
    session = both.session
    session.job = structs.replace(session.job, speculation=Speculation(consensus=True))
    session.links[InstanceId("e")] = both.link
    told = session.accepted_at
    assert consensus.wait_until(session, 100.0, 200.0) == told + SLACK * 0.2
    assert consensus.wait_until(session, 100.0, 200.0, told + 0.05) == told + 0.05 + COUNTING_S
    assert consensus.wait_until(session, 100.0, 9000.0) == told + LONGEST_PASSES * 0.1
    session.job = structs.replace(session.job, speculation=Speculation(consensus=True, window=16))
    assert consensus.wait_until(session, 100.0, 9000.0) == told + SLACK * 9.0, "it waits for drafts in any case"
