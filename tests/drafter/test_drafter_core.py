"""The drafter's own machine: ahead, back, at rest; what it sends always names its place truthfully."""

import random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.drafter.cores import ME, core_with, give_slots, only, opened, step, tokens
from tests.properties import examples
from tests.speculator.fakes import TruePicker, text_of
from twd.decoding.window import Window
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules, Guess
from twd.kit.jobs.liveness import SILENCE_S
from twd.wire.base import JobId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed
from twd.wire.prefix import prefix_hash


def test_a_long_prompt_is_read_in_chunks_before_the_first_guess() -> None:
    core = core_with(list(range(2, 42)) * 4)
    kinds: list[Window] = []
    while not only(core).guesses:
        kinds += [window for _, window in core.plan()]
        step(core)
    assert [window.picks for window in kinds] == [False, False, True]
    assert sum(len(window.tokens) for window in kinds) == 160


def test_it_rests_at_its_credit_and_goes_on_when_tokens_are_accepted() -> None:
    prompt = [5, 6, 7]
    core = core_with(prompt, credit=3)
    for _ in range(10):
        step(core)
    assert len(only(core).guesses) == 3
    truth = text_of(prompt, 3)
    core.accept(JobId("j-s"), 3, truth[:2])
    assert tokens(core) == truth[2:]
    for _ in range(5):
        step(core)
    assert tokens(core) == text_of(prompt, 5)[2:]


def test_a_wrong_guess_sends_it_back_to_what_is_accepted() -> None:
    core = core_with([5, 6, 7], credit=8)
    for _ in range(4):
        step(core, guess=[9])
    core.proposals()
    core.accept(JobId("j-s"), 3, [9, 8])
    draft = only(core)
    assert draft.accepted == [5, 6, 7, 9, 8]
    assert draft.guesses == []
    step(core)
    (message,) = core.proposals()
    assert (message.at, message.prefix) == (5, prefix_hash([5, 6, 7, 9, 8]))


def test_low_confidence_stops_it_and_says_so() -> None:
    core = core_with([5, 6, 7], credit=32)
    for _ in range(10):
        step(core, confidence=0.5)
    sent = core.proposals()
    assert sum(len(message.tokens) for message in sent) == 2
    assert not sent[-1].more


def test_beside_the_target_a_run_travels_as_one_message() -> None:
    core = core_with([5, 6, 7], credit=4, beside=True)
    messages: list[DraftProposed] = []
    for _ in range(8):
        step(core, confidence=0.99)
        messages += core.proposals()
    assert [len(message.tokens) for message in messages] == [4]


def test_credit_zero_is_rest_and_a_grant_ends_it() -> None:
    core = core_with([5, 6, 7], credit=0)
    step(core)
    assert only(core).guesses == []
    core.grant(DraftGranted(session=SessionId("s"), drafter=ME, credit=2))
    give_slots(core)
    for _ in range(4):
        step(core)
    assert len(only(core).guesses) == 2


def test_without_credit_it_says_nothing_as_nobody_waits() -> None:
    core = core_with([5, 6, 7], credit=0)
    for place in range(3, 6):
        core.accept(JobId("j-s"), place, [8])
        step(core)
        assert core.proposals() == []
    core.grant(DraftGranted(session=SessionId("s"), drafter=ME, credit=1))
    give_slots(core)
    step(core)
    assert [len(message.tokens) for message in core.proposals()] == [1]


def test_it_rests_where_it_is_less_sure_than_it_was_told() -> None:
    made = []
    for floor in (0.3, 0.85):
        core = core_with([5, 6, 7], credit=8, beside=True)
        core.grant(DraftGranted(session=SessionId("s"), drafter=ME, credit=8, floor=floor))
        for _ in range(10):
            step(core, confidence=0.8)
        made.append(len(only(core).guesses))
    assert 0 < made[1] < made[0]


def test_a_lost_message_silences_the_session_until_it_is_told_anew() -> None:
    core = core_with([5, 6, 7])
    step(core)
    core.accept(JobId("j-s"), 9, [1, 2])
    assert core.take_lost()
    step(core)
    assert not any(message.tokens for message in core.proposals())
    now = [5, 6, 7, *text_of([5, 6, 7], 8)]
    core.open(opened(now), DraftRules(TruePicker()), False)
    step(core)
    assert only(core).accepted == now
    assert only(core).guesses


def test_closing_frees_the_slot_for_the_next_session() -> None:
    core = DrafterCore(ME, slots=1, ctx_size=64)
    core.open(opened([5], name="a"), DraftRules(TruePicker()), False)
    core.open(opened([6], name="b"), DraftRules(TruePicker()), False)
    give_slots(core)
    assert core.waiting() == []
    core.close(SessionId("a"))
    assert core.released() == [0]
    assert [draft.session for draft in core.waiting()] == ["b"]


def test_texts_whose_end_was_lost_keep_no_slots() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=64)
    for name in ("a", "b", "c"):
        core.open(opened([5], name=name), DraftRules(TruePicker()), False)
        core.heard(JobId(f"j-{name}"), 0.0)
    give_slots(core)
    for now in range(1, int(SILENCE_S) + 2):
        core.heard(JobId("j-a"), float(now))
        core.heard(JobId("j-c"), float(now))
        core.heard(JobId("another's"), float(now))
    assert set(core.drafts) == {"a", "c"}, "a live one says something every second"
    assert core.released() == [1]
    give_slots(core)
    assert core.drafts[SessionId("c")].slot >= 0
    assert not core.take_lost()


def test_a_text_that_was_given_up_too_early_is_told_anew() -> None:
    core = core_with([5, 6, 7])
    core.heard(JobId("j-s"), 0.0)
    core.heard(JobId("another's"), SILENCE_S + 1)
    assert not core.drafts
    core.accept(JobId("j-s"), 3, [1, 2])
    core.heard(JobId("j-s"), SILENCE_S + 2)
    assert core.take_lost()
    core.heard(JobId("j-s"), SILENCE_S + 3)
    assert not core.take_lost(), "once is enough"


@examples(100)
@given(seed=st.integers(0, 2**32), quality=st.floats(0, 1))
def test_every_message_names_the_text_it_continues(seed: int, quality: float) -> None:
    rng = random.Random(seed)
    text = [rng.randrange(2, 50) for _ in range(rng.randint(1, 80))]
    core = core_with(list(text), credit=rng.randint(1, 12), beside=rng.random() < 0.5)
    for _ in range(60):
        for draft, window in core.plan():
            said = []
            if window.picks:
                true = [*text_of(list(draft.span(0, draft.length)), 1), 3][0]
                first, second = (true, 7) if rng.random() < quality else (7, true)
                said = [Guess(first, rng.random(), second, rng.random() * 0.5)]
            core.computed(draft, window, said, 5.0)
            held = [*draft.accepted, *draft.path]
            assert draft.kept[: draft.fed] == held[: draft.fed]
        for message in core.proposals():
            draft = only(core)
            main = [*draft.accepted, *(guess.token for guess in draft.guesses)]
            assert message.prefix == prefix_hash(main[: message.at])
        if rng.random() < 0.3:
            news = text_of(text, rng.randint(1, 4))
            core.accept(JobId("j-s"), len(text), news)
            text += news
            assert only(core).accepted == text


def test_idle_time_goes_into_the_second_choice_where_the_first_is_least_sure() -> None:
    core = core_with([5, 6, 7], credit=3)
    for confidence, other in ((0.9, 0.05), (0.6, 0.35), (0.9, 0.05)):
        ((draft, window),) = core.plan()
        core.computed(draft, window, [Guess(20, confidence, 30, other)], 5.0)
    (main,) = [message for message in core.proposals() if message.tokens]
    assert main.tokens == [20, 20, 20]
    for _ in range(3):
        ((draft, window),) = core.plan()
        assert window.tokens[-1] in (30, 40)
        core.computed(draft, window, [Guess(40, 0.9)], 5.0)
    (branch,) = core.proposals()
    assert (branch.at, branch.tokens) == (4, [30, 40, 40, 40])
    assert branch.prefix == prefix_hash([5, 6, 7, 20])
    core.accept(JobId("j-s"), 3, [20, 30, 40])
    assert tokens(core) == [40, 40]
    assert core.proposals() == []


def test_reading_a_prompt_does_not_count_as_slow_drafting() -> None:
    core = core_with(list(range(2, 42)), credit=2, beside=True)
    pace = core.token_ms
    for spent_ms in (400.0, 5.0):
        ((draft, window),) = core.plan()
        core.computed(draft, window, [Guess(9, 0.9)], spent_ms)
    (message,) = core.proposals()
    assert message.draft_ms <= 2 * pace
    assert core.token_ms <= pace


def test_beside_a_target_that_reads_it_waits_for_the_first_token() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    core.open(replace(opened([5, 6, 7]), reading=True), DraftRules(TruePicker()), beside=True)
    assert not core.waiting(), "it takes no slot, so nothing is read"
    assert not core.plan()
    assert not core.proposals()
    core.accept(JobId("j-s"), 3, text_of([5, 6, 7], 1))
    give_slots(core)
    for _ in range(4):
        step(core)
    assert tokens(core) == text_of([5, 6, 7], 5)[1:]


def test_elsewhere_it_reads_while_the_target_reads() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    core.open(replace(opened([5, 6, 7]), reading=True), DraftRules(TruePicker()), beside=False)
    assert core.waiting()


def test_a_pace_of_other_circumstances_is_forgotten_at_once() -> None:
    core = core_with([5, 6, 7], credit=32)
    core.token_ms = 40.0
    core.doubt_pace()
    step(core)
    assert core.token_ms == 40.0, "it read the text, which tells nothing of drafts"
    step(core)
    assert core.token_ms == 5.0
    core.token_ms = 40.0
    step(core)
    assert 5.0 < core.token_ms < 40.0, "one step alone says little"


def test_on_cores_of_stages_a_prompt_is_read_after_the_first_token() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    event = replace(opened([5, 6, 7]), reading=True)
    core.open(event, DraftRules(TruePicker()), beside=False, yields=True)
    assert not core.waiting()
    core.accept(event.job, 3, [7])
    assert core.waiting()


def test_told_that_the_prompt_is_nearly_read_it_begins_before_the_first_token() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    event = replace(opened([5, 6, 7]), reading=True)
    core.open(event, DraftRules(TruePicker()), beside=False, yields=True)
    core.grant(DraftGranted(session=event.session, drafter=ME, credit=4))
    assert not core.waiting(), "a new credit alone changes nothing"
    core.grant(DraftGranted(session=event.session, drafter=ME, credit=4, reads=True))
    give_slots(core)
    for _ in range(3):
        step(core)
    assert tokens(core) == text_of([5, 6, 7], 3)
