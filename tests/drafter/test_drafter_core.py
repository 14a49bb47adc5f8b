"""The drafter's own machine: ahead, back, at rest; what it sends always names its place truthfully."""

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.properties import examples
from tests.speculator.fakes import TruePicker, text_of
from twd.decoding.window import Window
from twd.drafter.core import READ_AT_ONCE, DrafterCore
from twd.drafter.draft import DraftRules, DraftState, Guess
from twd.drafting.window_value import Cost
from twd.kit.jobs.liveness import SILENCE_S
from twd.wire.base import InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed, SessionOpened
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

ME = InstanceId("d")


def opened(tokens: list[int], credit: int = 4, name: str = "s") -> SessionOpened:
    return SessionOpened(
        job=JobId(f"j-{name}"),
        session=SessionId(name),
        model=ModelId("m"),
        speculator=InstanceId("spec"),
        node=NodeId("n"),
        tokens=tokens,
        vocab=VocabFingerprint(hash="v", tokens=50),
        credit=credit,
    )


def core_with(tokens: list[int], credit: int = 4, beside: bool = False) -> DrafterCore:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    core.open(opened(tokens, credit), DraftRules(TruePicker()), beside)
    give_slots(core)
    return core


def give_slots(core: DrafterCore) -> None:
    for i, draft in enumerate(core.waiting()):
        core.opened(draft, i, 0)


def step(core: DrafterCore, guess: list[int] | None = None, confidence: float = 0.9) -> None:
    for draft, window in core.plan():
        said = []
        if window.picks:
            said = [Guess((guess or text_of(list(draft.span(0, draft.length)), 1))[0], confidence)]
        core.computed(draft, window, said, 5.0)


def tokens(core: DrafterCore) -> list[int]:
    return [guess.token for guess in only(core).guesses]


def only(core: DrafterCore) -> DraftState:
    (draft,) = core.drafts.values()
    return draft


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


# -- several tokens a step, where the text comes again ---------------------------------------------


POEM = list(range(2, 40))


def copying(text: list[int], credit: int = 12, cost: Cost = lambda rows: 5.0, window_max: int = 64) -> DrafterCore:
    core = DrafterCore(ME, slots=2, ctx_size=256, cost=cost, window_max=window_max)
    core.open(opened(text, credit), DraftRules(TruePicker()), False)
    give_slots(core)
    return core


def said_of(window: Window, follows: Callable[[list[int]], int], read: list[int]) -> list[Guess]:
    """What a model that has `read` so much says to a window: what follows, and on as long as the copies agree."""
    read += window.tokens[: window.committed]
    if not window.picks:
        return []
    said = [Guess(follows(read), 0.99)]
    for copy in window.tokens[window.committed :]:
        if copy != said[-1].token:
            break
        read.append(copy)
        said.append(Guess(follows(read), 0.99))
    return said


def next_of_poem(text: list[int]) -> int:
    return text[-1] + 1


def test_a_text_that_comes_again_is_drafted_several_tokens_a_step() -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5])
    steps = 0
    while len(only(core).guesses) < 12:
        for draft, window in core.plan():
            core.computed(draft, window, said_of(window, next_of_poem, []), 5.0)
        steps += 1
    assert tokens(core) == list(range(6, 18))
    assert steps <= 4
    assert core.token_ms < 5.0, "that is its pace"


def test_copies_that_are_wrong_leave_what_was_said_instead_and_are_believed_less() -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5])
    ((draft, window),) = core.plan()
    assert window.tokens[window.committed :] == tuple(range(6, 14))
    core.computed(draft, window, [Guess(6, 0.9), Guess(7, 0.9), Guess(49, 0.9)], 5.0)
    assert tokens(core) == [6, 7, 49]
    assert draft.kept == [*POEM, 1, 2, 3, 4, 5, 6, 7], "the third copy does not count as read"
    assert draft.fed == len(draft.kept)
    cheap = copying([*POEM, 1, 2, 3, 4, 5], cost=lambda rows: 10.0 + rows)
    ((_, window),) = cheap.plan()
    first = len(window.tokens) - window.committed
    for _ in range(40):
        cheap._record.learn(only(cheap).copied_sure, False)
    ((_, window),) = cheap.plan()
    assert len(window.tokens) - window.committed < first


def test_copies_that_cost_too_much_are_not_tried() -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5], cost=lambda rows: 5.0 * rows)
    ((draft, window),) = core.plan()
    core.computed(draft, window, said_of(window, next_of_poem, []), 5.0)
    ((_, window),) = core.plan()
    assert len(window.tokens) == window.committed


@pytest.mark.parametrize(("credit", "window_max", "most"), [(1, 64, 0), (3, 64, 2), (12, 45, 2)])
def test_copies_stay_within_what_is_wanted_and_what_a_pass_takes(credit: int, window_max: int, most: int) -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5], credit=credit, window_max=window_max)
    ((_, window),) = core.plan()
    assert len(window.tokens) - window.committed == most


def test_branches_are_drafted_token_by_token() -> None:
    core = copying([*POEM, 1, 2, 3], credit=1)
    ((draft, window),) = core.plan()
    core.computed(draft, window, [Guess(9, 0.5, 4, 0.4)], 5.0)
    ((draft, window),) = core.plan()
    assert draft.on_branch is not None
    assert window.tokens[-1] == 4
    assert window.committed == len(window.tokens)


@examples(100)
@given(seed=st.integers(0, 2**32))
def test_copies_change_the_pace_and_not_the_guesses(seed: int) -> None:
    rng = random.Random(seed)
    text = [rng.randrange(2, 6) for _ in range(rng.randint(4, 60))]

    def follows(read: list[int]) -> int:
        return 2 + (sum(read[-3:]) + len(read) // 40) % 4

    one, many = core_with(list(text), credit=12), copying(list(text))
    fed: dict[int, list[int]] = {id(one): [], id(many): []}
    for core in (one, many):
        while len(only(core).guesses) < 12:
            for draft, window in core.plan():
                held = fed[id(core)]
                assert window.at <= len(held)
                del held[window.at :]
                before = len(held)
                said = said_of(window, follows, held)
                assert len(held) > before
                core.computed(draft, window, said, 5.0)
                assert draft.kept == held
    assert tokens(many)[:12] == tokens(one)[:12]


# -- what must come ---------------------------------------------------------------------------------


class Knows:
    """Sees what follows, three tokens far."""

    def __init__(self) -> None:
        self.text: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        self.text += tokens

    def propose(self, limit: int, beyond: Sequence[int] = ()) -> tuple[list[int], list[float]]:
        last = [*self.text, *beyond][-1:] or [99]
        found = [last[0] + step for step in (1, 2, 3)][:limit]
        return found, [0.95] * len(found)


def test_what_a_grammar_demands_is_drafted_several_tokens_a_step() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256, cost=lambda rows: 5.0, window_max=64)
    event, ahead = replace(opened([7, 8, 9, 20, 21], credit=12), prompt_tokens=3), Knows()
    core.open(event, DraftRules(TruePicker(), ahead), False)
    give_slots(core)
    read: list[int] = []
    widths = []
    while steps := core.plan():
        ((draft, window),) = steps
        widths.append(len(window.tokens) - window.committed)
        core.computed(draft, window, said_of(window, next_of_poem, read), 5.0)
    assert tokens(core) == list(range(22, 34))
    assert widths == [3, 3, 3]
    assert ahead.text == [20, 21], "it follows what comes behind the prompt"
    core.accept(JobId("j-s"), 5, [22, 23])
    core.plan()
    assert ahead.text == [20, 21, 22, 23]


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


@pytest.mark.parametrize(("prompt", "waits"), [(READ_AT_ONCE, False), (READ_AT_ONCE + 1, True)])
def test_on_cores_of_stages_only_a_long_prompt_is_read_after_the_first_token(prompt: int, waits: bool) -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    event = replace(opened([5] * prompt), reading=True)
    core.open(event, DraftRules(TruePicker()), beside=False, yields=True)
    assert bool(core.waiting()) is not waits
    core.accept(event.job, prompt, [7])
    assert core.waiting()
