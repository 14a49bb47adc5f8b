"""The protocol over real sockets, with 1, 2 and 4 stages of a small fake model."""

import pytest

from tests.ring.fake_slices import VOCABULARY, FakeSlice, fake_text
from tests.ring.rings import PLAIN, QUICK, Hand, Ring, fake_ring
from tests.waiting import wait_until
from twd.ring.frames import Close, Copy, ItemOutcome, Open, PassFrame, SessionSpec, VoidEpochs, WindowItem
from twd.stage.server import LinkRules
from twd.wire.failures import FailureCode
from twd.wire.job import Sampling
from twd.wire.ring import FrameFault, StateFormat

PROMPT = [5, 17, 3, 88, 41]


def spec(seed: int = 0, logprobs: int | None = None) -> SessionSpec:
    return SessionSpec(Sampling(), seed, len(PROMPT), logprobs=logprobs)


def one(hand: Hand, item: WindowItem, number: int = 1) -> ItemOutcome:
    """Send a pass of one window and read what came of it."""
    hand.send(PassFrame(number, [item]))
    verdicts = hand.verdicts()
    assert verdicts.id == number
    assert len(verdicts.outcomes) == 1, "it was dropped"
    return verdicts.outcomes[0]


def say(hand: Hand, prompt: list[int], count: int, *, slot: int = 0, epoch: int = 1) -> list[int]:
    """Plain decoding, one window in flight."""
    said = one(hand, WindowItem(slot, epoch, 0, prompt, len(prompt))).tokens
    while len(said) < count:
        said += one(hand, WindowItem(slot, epoch, len(prompt) + len(said) - 1, [said[-1]])).tokens
    return said


@pytest.fixture(params=[1, 2, 4])
def ring(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    with fake_ring(request.param) as ring:
        yield ring


@pytest.fixture
def hand(ring: Ring):  # type: ignore[no-untyped-def]
    hand = ring.connect()
    yield hand
    hand.close()


def test_plain_decoding_says_what_the_uncut_model_says(hand: Hand) -> None:
    hand.send(Open(0, spec()))
    assert say(hand, PROMPT, 40) == fake_text(PROMPT, 40)


def test_windows_that_hold_and_windows_that_do_not(hand: Hand) -> None:
    truth = fake_text(PROMPT, 30)
    hand.send(Open(0, spec()))
    first = one(hand, WindowItem(0, 1, 0, [*PROMPT, *truth[:6]], len(PROMPT)))
    assert (first.tokens, first.standing) == (truth[:7], len(PROMPT) + 6)
    at = len(PROMPT) + 6
    wrong = (truth[8] + 1) % VOCABULARY
    second = one(hand, WindowItem(0, 1, at, [truth[6], truth[7], wrong, 1, 2]))
    assert (second.tokens, second.standing) == (truth[7:9], 2)
    assert say_on(hand, truth[:9], 30, epoch=2) == truth


def say_on(hand: Hand, said: list[int], count: int, *, epoch: int, slot: int = 0) -> list[int]:
    said = list(said)
    while len(said) < count:
        said += one(hand, WindowItem(slot, epoch, len(PROMPT) + len(said) - 1, [said[-1]])).tokens
    return said


def test_given_tokens_all_stand_and_the_text_goes_on_behind_them(hand: Hand) -> None:
    truth = fake_text(PROMPT, 4)
    hand.send(Open(0, spec()))
    one(hand, WindowItem(0, 1, 0, PROMPT, len(PROMPT)))
    given = [*truth[:3], (truth[3] + 1) % VOCABULARY]
    read = one(hand, WindowItem(0, 1, len(PROMPT), given, scores=True, goes_on=True))
    following = fake_text([*PROMPT, *given], 2)
    assert (read.tokens, read.standing) == ([*given[1:], following[0]], 4)
    assert [fit.gap > 0.0 for fit in read.scores] == [False, False, True]
    further = one(hand, WindowItem(0, 1, len(PROMPT) + 4, following[:1]))
    assert further.tokens == following[1:]


def test_drafts_behind_given_tokens_are_verified(hand: Hand) -> None:
    truth = fake_text(PROMPT, 9)
    hand.send(Open(0, spec()))
    one(hand, WindowItem(0, 1, 0, PROMPT, len(PROMPT)))
    wrong = (truth[6] + 1) % VOCABULARY
    tokens = [*truth[:6], wrong, truth[7]]
    read = one(hand, WindowItem(0, 1, len(PROMPT), tokens, scores=True, goes_on=True, drafts=4))
    assert (read.tokens, read.standing, len(read.scores)) == (truth[1:7], 6, 3)
    assert one(hand, WindowItem(0, 2, len(PROMPT) + 6, [truth[6]])).tokens == [truth[7]]
    refused = one(hand, WindowItem(0, 3, len(PROMPT) + 6, [truth[6]], scores=True, goes_on=True, drafts=1))
    assert refused.failure is not None


def test_windows_in_flight_go_on_or_are_dropped(hand: Hand) -> None:
    truth = fake_text(PROMPT, 40)
    text = [*PROMPT, *truth]
    hand.send(Open(0, spec()))
    hand.send(PassFrame(1, [WindowItem(0, 1, 0, PROMPT, picks=False)]))
    at, wrong = len(PROMPT), (text[12] + 1) % VOCABULARY
    assert hand.verdicts().outcomes[0].standing == len(PROMPT)
    hand.send(PassFrame(2, [WindowItem(0, 1, at, [*text[at : at + 4]])]))
    hand.send(PassFrame(3, [WindowItem(0, 1, at + 4, [*text[at + 4 : at + 7], wrong])]))
    hand.send(PassFrame(4, [WindowItem(0, 1, at + 8, text[at + 8 : at + 12])]))
    hand.send(PassFrame(5, [WindowItem(0, 2, 12, text[12:16])]))
    answers = {verdicts.id: verdicts.outcomes for verdicts in (hand.verdicts() for _ in range(4))}
    assert [outcome.tokens for outcome in answers[2]] == [text[at + 1 : at + 5]]
    assert [outcome.tokens for outcome in answers[3]] == [text[at + 5 : at + 8]]
    assert answers[4] == [], "its epoch was over"
    assert [outcome.tokens for outcome in answers[5]] == [text[13:17]]


def test_many_sessions_share_passes(hand: Hand) -> None:
    prompts = [[5, 17, 3, 88], [9, 2, 4, 7], [1, 1, 2, 60], [80, 70, 60, 50]]
    said: list[list[int]] = []
    for slot, prompt in enumerate(prompts):
        hand.send(Open(slot, spec(slot)))
        said.append(one(hand, WindowItem(slot, 1, 0, prompt, len(prompt))).tokens)
    for number in range(12):
        slots = [slot for slot in range(4) if number % (slot + 1) == 0]
        hand.send(PassFrame(number, [WindowItem(slot, 1, 3 + len(said[slot]), [said[slot][-1]]) for slot in slots]))
        for outcome in hand.verdicts().outcomes:
            said[outcome.slot] += outcome.tokens
    for slot, prompt in enumerate(prompts):
        assert said[slot] == fake_text(prompt, len(said[slot]), slot)


def test_a_void_epoch_is_dropped_everywhere_and_answered(hand: Hand) -> None:
    hand.send(Open(0, spec()))
    hand.void(VoidEpochs(0, 5))
    hand.send(PassFrame(1, [WindowItem(0, 4, 0, PROMPT, len(PROMPT))]))
    assert hand.verdicts().outcomes == []
    assert one(hand, WindowItem(0, 5, 0, PROMPT, len(PROMPT))).tokens == fake_text(PROMPT, 1)


def test_a_copied_slot_goes_on_as_its_source(hand: Hand) -> None:
    hand.send(Open(1, spec()))
    said = say(hand, PROMPT, 10, slot=1)
    hand.send(Copy(1, 3))
    hand.send(Open(3, spec()))
    assert say_on(hand, said, 20, epoch=1, slot=3) == fake_text(PROMPT, 20)


def test_log_probabilities_come_home_when_asked_for(hand: Hand) -> None:
    hand.send(Open(0, spec(logprobs=0)))
    outcome = one(hand, WindowItem(0, 1, 0, PROMPT, len(PROMPT)))
    assert [said.token for said in outcome.logprobs] == outcome.tokens


REFUSED = {
    "unknown session": (WindowItem(2, 1, 0, [1]), FailureCode.INTERNAL, FrameFault.UNKNOWN_SESSION),
    "no such slot": (WindowItem(9, 1, 0, [1]), FailureCode.BAD_REQUEST, FrameFault.OUT_OF_RANGE),
    "no such token": (WindowItem(0, 9, 0, [VOCABULARY]), FailureCode.BAD_REQUEST, FrameFault.OUT_OF_RANGE),
    "a gap": (WindowItem(0, 9, 50, [1]), FailureCode.INTERNAL, FrameFault.OUT_OF_ORDER),
    "too long": (WindowItem(0, 9, 0, [1] * 17, 17), FailureCode.BAD_REQUEST, FrameFault.TOO_LONG),
    "nothing decided": (WindowItem(0, 9, 0, [1], 0), FailureCode.BAD_REQUEST, FrameFault.OUT_OF_RANGE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_and_the_session_goes_on(hand: Hand, ring: Ring, what: str) -> None:
    item, code, fault = REFUSED[what]
    hand.send(Open(0, spec()))
    said = say(hand, PROMPT, 4)
    refused = one(hand, item)
    assert refused.failure is not None
    assert (refused.failure.code, refused.tokens) == (code, [])
    assert ring.stages[0].faults[-1][0] is fault
    assert say_on(hand, said, 8, epoch=10) == fake_text(PROMPT, 8)


def test_a_full_slot_is_refused_as_full() -> None:
    with fake_ring(2, ctx_size=16) as ring:
        hand = ring.connect()
        hand.send(Open(0, spec()))
        one(hand, WindowItem(0, 1, 0, [1] * 14, 14))
        full = one(hand, WindowItem(0, 2, 14, [1, 2, 3]))
        assert full.failure is not None
        assert full.failure.code is FailureCode.CONTEXT_OVERFLOW
        assert ring.stages[0].faults == []
        assert one(hand, WindowItem(0, 3, 14, [1, 2])).failure is None
        hand.close()


def test_a_session_that_cannot_be_picked_for_is_refused_by_the_head(hand: Hand) -> None:
    hand.send(Open(0, SessionSpec(Sampling(temperature=1.0), 1, 1)))
    refused = one(hand, WindowItem(0, 1, 0, PROMPT, len(PROMPT)))
    assert refused.failure is not None
    assert refused.failure.code is FailureCode.UNSUPPORTED


def test_a_closed_session_is_unknown_and_its_cache_stays(hand: Hand) -> None:
    hand.send(Open(0, spec()))
    said = say(hand, PROMPT, 6)
    hand.send(Close(0))
    refused = one(hand, WindowItem(0, 1, len(PROMPT), [said[0]]))
    assert refused.failure is not None
    hand.send(Open(0, spec()))
    assert say_on(hand, said[:3], 10, epoch=3) == fake_text(PROMPT, 10)


def test_half_precision_states_travel_when_asked_for() -> None:
    with fake_ring(2) as ring:
        ring.format = StateFormat.F16
        hand = ring.connect()
        hand.send(Open(0, spec()))
        assert len(say(hand, PROMPT, 5)) == 5
        hand.close()


@pytest.mark.parametrize("rules", [QUICK, PLAIN, LinkRules(key="preset", pace=QUICK.pace)], ids=["tls", "plain", "key"])
def test_all_ways_of_trust_work(rules: LinkRules) -> None:
    with fake_ring(2, rules) as ring:
        hand = ring.connect()
        hand.send(Open(0, spec()))
        assert say(hand, PROMPT, 5) == fake_text(PROMPT, 5)
        hand.close()


def test_a_window_is_stopped_while_it_is_computed() -> None:
    with fake_ring(2) as ring:
        hand = ring.connect()
        engine = ring.stages[1].server.engine
        assert isinstance(engine, FakeSlice)
        hand.send(Open(0, spec()))
        said = say(hand, PROMPT, 2)

        def void_it(rows: object) -> None:
            hand.send(VoidEpochs(0, 2), 1)
            wait_until(lambda: ring.stages[1].server.worker.aborting, "the pass is told to stop")

        engine.before = void_it
        hand.send(PassFrame(7, [WindowItem(0, 1, len(PROMPT) + 1, [said[-1], 1, 2, 3])]))
        verdicts = hand.verdicts()
        assert (verdicts.id, verdicts.outcomes) == (7, [])
        assert engine.aborted.is_set()
        engine.before = lambda rows: None
        assert say_on(hand, said, 6, epoch=2) == fake_text(PROMPT, 6)
        hand.close()


def test_trails_tell_where_the_time_went(hand: Hand) -> None:
    hand.send(Open(0, spec()))
    hand.send(PassFrame(1, [WindowItem(0, 1, 0, PROMPT, len(PROMPT))]))
    assert len(hand.verdicts().trail) == len(hand.links)
