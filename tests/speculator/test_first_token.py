"""The first token waits for no drafter, and the text pauses for one that reads only where that will pay."""

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, text_of
from twd.speculator.core.session import Session
from twd.speculator.drafters.drafter_link import AttachedDrafter, DrafterLink
from twd.wire.base import InstanceId, NodeId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.job import TokensAccepted
from twd.wire.prefix import prefix_hash

NAME = InstanceId("d")
SHORT, LONG = [3, 4, 5, 6], [3, 4, 5, 6] * 75
STEP_MS = 11.0
"""Of a pass with one row."""


def beside(prompt: list[int], max_tokens: int = 60, token_ms: float = 2.0) -> tuple[Driver, Session]:
    """A session on whose cores a drafter drafts that was not heard yet; nothing was computed so far."""
    target = FakeTarget(ctx_size=1024)
    core = make_core(target, ngram=False)
    core.attach(AttachedDrafter(NAME, NodeId("here"), beside=True, token_ms=token_ms), 0.0)
    driver = Driver(core, target)
    driver.submit(job(max_tokens=max_tokens, ignore_eos=True), prompt)
    return driver, next(iter(core.by_id.values()))


def link_of(session: Session) -> DrafterLink:
    return session.links[NAME]


def until(driver: Driver, session: Session, generated: int) -> float:
    """Turns until so many tokens are made; how long that took, in milliseconds."""
    began = driver.now
    while session.generated < generated:
        driver.turn()
    return (driver.now - began) * 1000


def hears(driver: Driver, session: Session) -> None:
    """The drafter has read the text, and guesses."""
    guesses = text_of(session.tokens, 4)
    event = DraftProposed(
        session=session.id,
        drafter=NAME,
        at=len(session.tokens),
        prefix=prefix_hash(session.tokens),
        tokens=guesses,
        confidence=[0.9] * 4,
        draft_ms=8.0,
    )
    driver.core.draft(event, guesses, driver.now)


def test_the_first_token_is_not_held_up() -> None:
    driver, session = beside(SHORT)
    assert until(driver, session, 1) < 2 * STEP_MS
    (told,) = [event for event in driver.told if isinstance(event, SessionOpened)]
    assert told.reading, "so that it waits for the first token, too"


def test_who_comes_when_the_text_has_begun_reads_at_once() -> None:
    driver, session = beside(SHORT)
    until(driver, session, 2)
    driver.core.attach(AttachedDrafter(InstanceId("late"), NodeId("here"), beside=True), driver.now)
    told = [event for event in driver.read() if isinstance(event, SessionOpened)]
    assert [event.reading for event in told if event.drafter == "late"] == [False]


def test_behind_a_short_prompt_the_text_waits_until_it_is_heard() -> None:
    driver, session = beside(SHORT)
    until(driver, session, 1)
    assert link_of(session).awaited
    assert not driver.core.plan(driver.now).windows
    hears(driver, session)
    assert len(driver.core.plan(driver.now).windows[0].tokens) > 1


def test_behind_a_long_prompt_a_short_answer_does_not_wait() -> None:
    driver, session = beside(LONG, max_tokens=8)
    first_ms = until(driver, session, 1)
    assert not link_of(session).awaited
    assert until(driver, session, 8) <= 8 * STEP_MS
    assert first_ms < 500.0
    assert not link_of(session).late, "nobody waited for it"


def test_an_answer_that_becomes_long_waits_in_the_end() -> None:
    driver, session = beside(LONG, max_tokens=600)
    driver.core.drafter_pool._answer_tokens = 4.0
    until(driver, session, 2)
    assert not link_of(session).awaited
    while not link_of(session).awaited:
        driver.turn()
    assert session.generated < 200


def test_cycles_beside_one_that_reads_are_no_part_of_the_race() -> None:
    driver, session = beside(LONG, max_tokens=12)
    until(driver, session, 12)
    race = driver.core.drafter_pool.race
    assert (race.drafted.cycles, race.plain.cycles) == (0, 0)


def test_reading_is_not_taken_for_a_slow_answer() -> None:
    driver, session = beside(SHORT)
    until(driver, session, 1)
    drafter = driver.core.drafter_pool.drafters[NAME]
    lead_ms, read_ms = drafter.lead_ms, drafter.read_ms
    driver.now += 0.5
    hears(driver, session)
    assert drafter.lead_ms == lead_ms
    assert drafter.read_ms > read_ms
    assert not link_of(session).unread


def test_texts_are_the_same_however_the_drafter_reads() -> None:
    made = []
    for prompt in (SHORT, LONG):
        driver, session = beside(prompt, max_tokens=20)
        until(driver, session, 1)
        hears(driver, session)
        driver.run()
        told = [token for event in driver.told if isinstance(event, TokensAccepted) for token in event.tokens]
        made.append(told == text_of(prompt, 20))
    assert all(made)
