"""Drafters elsewhere are watched too: what counts as drafted, what as plain, and what as neither."""

from tests.speculator.fakes import Driver, FakePipeline, FakeTarget, job, make_core, text_of
from twd.speculator.core.ab_test import SAMPLE_EVERY, SAMPLE_STEPS, SpeculationABTest
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.session import Session
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed, SessionOpened
from twd.wire.job import Speculation
from twd.wire.prefix import prefix_hash

NAME = InstanceId("d")
PROMPT = [3, 4, 5, 6]
AHEAD = 6


def drafter(name: str = NAME) -> AttachedDrafter:
    return AttachedDrafter(InstanceId(name), NodeId("far"), beside=False, token_ms=2.0, lead_ms=1.0)


def propose(core: SpeculatorCore, session: Session, now: float, name: str = NAME, *, lie: bool = False) -> None:
    """True guesses come, from the end of the text on, or false ones."""
    guesses = text_of(session.tokens, AHEAD)
    event = DraftProposed(
        session=session.id,
        drafter=InstanceId(name),
        at=len(session.tokens),
        prefix=prefix_hash(session.tokens),
        tokens=[guess ^ 1 for guess in guesses] if lie else guesses,
        confidence=[0.9] * AHEAD,
        draft_ms=AHEAD * 2.0,
    )
    core.draft(event, event.tokens, now)


def always_drafting(driver: Driver) -> None:
    for session in driver.core.sessions.values():
        if any(link.credit for link in session.links.values()):
            propose(driver.core, session, driver.now)


def driven(target: FakeTarget | None = None) -> Driver:
    """A core with a drafter elsewhere that is always right, and ahead while it may be."""
    used = target or FakeTarget(n_slots=2)
    core = make_core(used, ngram=False)
    core.attach(drafter(), 0.0)
    return Driver(core, used, between=always_drafting)


def start(driver: Driver, name: str = "j", **fields: object) -> Session:
    driver.submit(job(name, **({"max_tokens": 400, "ignore_eos": True} | fields)), PROMPT)
    session = driver.core.by_job[job(name).job]
    while session.generated < 2:
        driver.turn()
    return session


def until_plain(driver: Driver, session: Session) -> None:
    while not session.plain:
        driver.turn()


def losing(race: SpeculationABTest) -> None:
    for _ in range(50):
        race.add(True, 1, 100.0)
    for _ in range(SAMPLE_STEPS):
        race.add(False, 1, 10.0)
    assert race.lost


def test_while_it_is_watched_its_guesses_at_hand_are_left_alone_and_used_afterwards() -> None:
    driver = driven()
    session = start(driver)
    until_plain(driver, session)
    propose(driver.core, session, driver.now)  # they were on their way when it was told to rest
    drafted, plain = driver.core.drafter_pool.race.drafted.cycles, driver.core.drafter_pool.race.plain.cycles
    generated, turns = session.generated, 0
    while session.plain:
        driver.turn()
        turns += 1
    assert session.generated - generated == turns, "one token each"
    assert driver.core.drafter_pool.race.drafted.cycles == drafted
    assert driver.core.drafter_pool.race.plain.cycles == plain + turns - 1, "it may not have heard yet in the first"
    assert session.tree.depth(NAME) == AHEAD - turns
    assert session.links[NAME].credit


def test_guesses_that_a_drafter_left_behind_make_a_step_neither_plain_nor_drafted() -> None:
    driver = driven()
    session = start(driver)
    driver.core.attach(drafter("other"), driver.now)
    driver.between = None
    propose(driver.core, session, driver.now)
    driver.core.detach(NAME, driver.now)
    race = driver.core.drafter_pool.race
    for link in session.links.values():
        link.credit = 0
    driver.core.drafter_pool._stirred_ms = 0.0
    known = (race.drafted.cycles, race.plain.cycles)
    generated = session.generated
    driver.turn()
    assert session.generated > generated + 1, "its guesses held"
    assert (race.drafted.cycles, race.plain.cycles) == known


def test_a_new_session_does_not_forget_who_lost() -> None:
    driver = driven()
    losing(driver.core.drafter_pool.race)
    session = start(driver)
    assert [event.credit for event in driver.told if isinstance(event, SessionOpened)] == [0]
    driver.turn()
    assert not session.links[NAME].credit


def test_somebody_new_gets_a_chance() -> None:
    driver = driven()
    losing(driver.core.drafter_pool.race)
    driver.core.attach(drafter(), driver.now)
    assert driver.core.drafter_pool.race.lost, "it is here already"
    driver.core.attach(drafter("new"), driver.now)
    assert not driver.core.drafter_pool.race.lost


def test_who_lost_drafts_again_after_a_while() -> None:
    driver = driven()
    losing(driver.core.drafter_pool.race)
    session = start(driver)
    while not session.links[NAME].credit:
        driver.turn()
        assert session.generated < 200


def test_sessions_that_share_passes_are_not_watched() -> None:
    driver = driven()
    first, second = start(driver, "a"), start(driver, "b")
    race = driver.core.drafter_pool.race
    race._since = SAMPLE_EVERY
    cycles = race.drafted.cycles
    for _ in range(20):
        driver.turn()
        assert not first.plain
        assert not second.plain
    assert race.drafted.cycles == cycles


def test_windows_of_a_fixed_size_are_not_watched() -> None:
    driver = driven(FakeTarget())
    session = start(driver, speculation=Speculation(window=3))
    losing(driver.core.drafter_pool.race)
    while not driver.core.idle:
        driver.turn()
        assert not session.plain
    assert all(event.credit for event in driver.told if isinstance(event, DraftGranted))


def turns_of(driver: Driver, name: str) -> int:
    """How many turns a job with windows of a fixed size takes: without a wait one for each token, and the prompt's."""
    turns = driver.turns
    driver.submit(job(name, max_tokens=20, ignore_eos=True, speculation=Speculation(window=4)), PROMPT)
    driver.run()
    return driver.turns - turns


def test_a_drafter_that_fell_silent_is_not_waited_for_in_the_next_text() -> None:
    driver = driven()
    driver.between = None
    first, second = turns_of(driver, "first"), turns_of(driver, "second")
    assert first > second
    assert second == 20
    late = DraftProposed(session=SessionId("s-second"), drafter=NAME, at=4, prefix=prefix_hash(PROMPT), tokens=[9])
    driver.core.draft(late, late.tokens, driver.now)
    assert turns_of(driver, "third") == first, "it was heard, so it is worth a wait"


def test_what_a_drafter_sends_that_lost_and_rests_is_not_even_looked_at() -> None:
    driver = driven()
    session = start(driver)
    losing(driver.core.drafter_pool.race)
    until_plain(driver, session)
    driver.turn()
    propose(driver.core, session, driver.now)
    assert len(session.tree) == 0
    while session.plain:
        driver.turn()
    propose(driver.core, session, driver.now)
    assert len(session.tree) == AHEAD, "it is tried again"


def test_what_a_liar_sends_counts_only_when_it_is_tried_again() -> None:
    driver = driven()
    driver.between = lambda driver: None
    session = start(driver)
    while not session.links[NAME].ignored(session.generated):
        propose(driver.core, session, driver.now, lie=True)
        driver.turn()
    assert not session.plain, "it was not compared with plain steps: it is known that it lies"
    known = len(session.tree)
    propose(driver.core, session, driver.now)
    assert len(session.tree) == known
    while not session.links[NAME].credit:
        driver.turn()
    propose(driver.core, session, driver.now)
    assert len(session.tree) == AHEAD


def test_over_a_pipeline_who_loses_rests_too_and_the_text_is_the_same() -> None:
    driver = driven(FakePipeline())
    session = start(driver)
    losing(driver.core.drafter_pool.race)
    until_plain(driver, session)
    assert not session.links[NAME].credit
    while session.plain:
        driver.turn()
    assert session.links[NAME].credit, "it is tried again"
    driver.run()
    assert driver.tokens("j") == text_of(PROMPT, 400)


def test_over_a_pipeline_windows_still_on_their_way_are_neither_plain_nor_drafted() -> None:
    driver = driven(FakePipeline())
    session = start(driver)
    race = driver.core.drafter_pool.race
    while not any(inflight.nodes for inflight in session.inflight_windows):
        driver.turn()
    for link in session.links.values():
        link.credit = 0
    driver.core.drafter_pool._stirred_ms = 0.0
    session.plain = True
    known = (race.drafted.cycles, race.plain.cycles)
    driver.core.drafter_pool.measure(session, 3, 30.0, [NAME, NAME])
    assert (race.drafted.cycles, race.plain.cycles) == known
    driver.core.drafter_pool.measure(session, 1, 30.0, [])
    assert (race.drafted.cycles, race.plain.cycles) == (known[0], known[1] + 1)
