"""Sessions over a pipeline: whatever is in flight, lost or late, the text is the target's own, and told once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.speculator.fakes import VOCAB, Driver, FakePipeline, drafts, job, make_core, text_of
from twd.decoding.pipeline import PipelineState
from twd.speculator.core import pipelining
from twd.speculator.core.pipelining import best_width, chunk_rows, drafts_together, groups, sessions_together, span
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, JobId, NodeId
from twd.wire.draft import DraftGranted, DraftProposed
from twd.wire.job import JobFailed, JobFinished, JobStarted, Speculation, TokensAccepted
from twd.wire.model import CostPoint
from twd.wire.prefix import prefix_hash


def lose(driver: Driver, target: FakePipeline) -> None:
    target.lose()
    driver.core.replay()


@examples(150)
@given(
    seed=st.integers(0, 2**32),
    quality=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    in_flight=st.sampled_from([1, 2, 8]),
    jobs=st.integers(1, 5),
    window=st.sampled_from([0, 0, 1, 5]),
    losses=st.sampled_from([0.0, 0.0, 0.05, 0.3]),
    stream_ms=st.sampled_from([0.0, 50.0, 400.0]),
    yields=st.booleans(),
)
def test_drafts_and_losses_change_speed_never_text(
    seed: int, quality: float, in_flight: int, jobs: int, window: int, losses: float, stream_ms: float, yields: bool
) -> None:
    rng = random.Random(seed)
    target = FakePipeline(n_slots=3, in_flight=in_flight)
    core = make_core(target, stream_ms=stream_ms)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False, yields=yields), 0.0)

    def meddle(driver: Driver) -> None:
        driver.now += rng.random() * 0.004
        for _ in range(rng.randint(0, 3)):
            if driver.core.by_id:
                event = drafts(rng, driver, quality, rng.choice(["d", "d", "stranger"]))
                driver.core.draft(event, event.tokens, driver.now)
        if rng.random() < losses and driver.turns < 60:
            lose(driver, target)

    driver = Driver(core, target, between=meddle, dice=random.Random(seed))
    prompts = {f"j{i}": [rng.randrange(2, VOCAB) for _ in range(rng.randint(1, 60))] for i in range(jobs)}
    for name, prompt in prompts.items():
        driver.submit(job(name, speculation=Speculation(window=window)), prompt)
    driver.run()
    for name, prompt in prompts.items():
        assert driver.tokens(name) == text_of(prompt, 40)
    assert len([event for event in driver.told if isinstance(event, JobFinished)]) == jobs
    assert len([event for event in driver.told if isinstance(event, JobStarted)]) == jobs
    assert not any(isinstance(event, JobFailed) for event in driver.told)


def test_a_long_prompt_is_read_with_several_chunks_in_flight() -> None:
    target = FakePipeline(n_slots=1)
    driver = Driver(make_core(target), target)
    driver.submit(job("long", max_tokens=3), [3] * 200)
    driver.run()
    assert target.most >= 2
    assert driver.tokens("long") == text_of([3] * 200, 3)


@pytest.mark.parametrize("yields", [True, False])
def test_drafters_on_cores_of_stages_read_a_prompt_when_its_last_chunk_has_left(yields: bool) -> None:
    target = FakePipeline(n_slots=1)
    core = make_core(target)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False, yields=yields), 0.0)
    driver = Driver(core, target)
    driver.submit(job(max_tokens=3), [3] * 200)
    while not any(isinstance(event, TokensAccepted) for event in driver.told):
        driver.turn()
    told = [event for event in driver.told if isinstance(event, DraftGranted | TokensAccepted)]
    grants = [event for event in told if isinstance(event, DraftGranted) and event.reads]
    assert [(event.drafter, event.credit > 0) for event in grants] == ([("d", True)] if yields else [])
    assert not yields or told[0] is grants[0], "before the first token"


def perfect(driver: Driver) -> None:
    """Guesses far ahead, all of them right."""
    driver.now += 0.002
    for session in driver.core.by_id.values():
        tokens = text_of(session.tokens, 24)
        at, prefix = len(session.tokens), prefix_hash(session.tokens)
        event = DraftProposed(session=session.id, drafter=InstanceId("d"), at=at, prefix=prefix, tokens=tokens)
        driver.core.draft(event, tokens, driver.now)


def test_sure_guesses_fill_the_pipe_and_one_window_in_flight_means_one() -> None:
    most = {}
    for in_flight in (1, 8):
        target = FakePipeline(n_slots=1, in_flight=in_flight)
        driver = Driver(make_core(target, ngram=False), target, between=perfect)
        driver.submit(job(max_tokens=60, ignore_eos=True), [5, 6, 7])
        driver.run()
        most[in_flight] = target.most
    assert most[1] == 1
    assert most[8] >= 3


def test_every_right_guess_is_counted_also_the_first_of_a_window_that_follows() -> None:
    target = FakePipeline(n_slots=1, in_flight=8)
    driver = Driver(make_core(target, ngram=False), target, between=perfect)
    driver.submit(job(max_tokens=60, ignore_eos=True, speculation=Speculation(window=1)), [5, 6, 7])
    driver.run()
    (end,) = [event for event in driver.told if isinstance(event, JobFinished)]
    assert target.most >= 3
    assert end.stats.checked == end.stats.taken >= 50
    told = [event for event in driver.told if isinstance(event, TokensAccepted)]
    assert sum(event.taken for event in told) == end.stats.taken


@pytest.mark.parametrize("sessions", [2, 6, 20])
def test_sessions_with_good_guesses_send_no_more_than_a_stage_takes(sessions: int) -> None:
    target = FakePipeline(n_slots=sessions)
    target.pipe = PipelineState([CostPoint(width=1, ms=5.0)], [CostPoint(width=1, ms=10.0)], 1.0, room=16)
    driver = Driver(make_core(target, max_window=15, prefill_rows=16), target, between=perfect)
    for number in range(sessions):
        driver.submit(job(f"j{number}"), [number + 2])
    driver.run()
    assert 8 < target.most_rows <= 16


@pytest.mark.parametrize(("yields", "windows"), [(False, [1, 1, 1]), (True, [0, 0, 3])])
def test_a_window_waits_for_a_few_drafts_where_the_drafter_shares_cores_with_the_stages(
    yields: bool, windows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelining, "drafts_together", lambda *_: 3)
    target = FakePipeline(n_slots=1)
    core = make_core(target, ngram=False)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False, token_ms=4.0, yields=yields), 0.0)
    driver = Driver(core, target)
    driver.submit(job(max_tokens=60, ignore_eos=True), [5, 6, 7])
    while not any(isinstance(event, TokensAccepted) for event in driver.told):
        driver.turn()
    target.passes.clear()
    while not (plan := core.plan(driver.now)).windows:
        driver.now += 0.001
    target.submit(plan.windows)
    (session,) = core.by_id.values()
    tokens, node, rows = text_of(session.tokens, 3), session.tree.root, list[int]()
    for place, token in enumerate(tokens):
        driver.now += 0.004
        node = [session.tree.root, *(one for one, _ in session.tree.chain(session.believe, place))][-1]
        guess = [token]
        event = DraftProposed(
            session=session.id, drafter=InstanceId("d"), at=node.at + 1, prefix=node.hash, tokens=guess
        )
        core.draft(event, guess, driver.now)
        plan = core.plan(driver.now)
        assert plan.windows or plan.wake_at is not None
        if plan.windows:
            target.submit(plan.windows)
        rows.append(sum(len(window.tokens) for window in plan.windows))
    assert rows == windows


def test_a_cancel_while_windows_fly_leaves_the_slot_to_others() -> None:
    target = FakePipeline(n_slots=1)
    driver = Driver(make_core(target, ngram=False), target, between=perfect)
    driver.submit(job("a", max_tokens=60, ignore_eos=True), [5, 6, 7])
    driver.submit(job("b"), [9, 8, 7])
    while len(target.passes) < 2:
        driver.turn()
    driver.core.cancel(JobId("a"), driver.now)
    driver.run()
    assert driver.tokens("b") == text_of([9, 8, 7], 40)


def pipe(step: float, links: float, stages: int = 2, row: float = 0.5) -> PipelineState:
    points = [CostPoint(width=1, ms=step), CostPoint(width=33, ms=step + 32 * row)]
    return PipelineState(points, [CostPoint(width=p.width, ms=stages * p.ms) for p in points], links, room=16)


def test_sessions_share_passes_only_when_the_stages_are_the_bottleneck() -> None:
    assert sessions_together(range(4), pipe(step=5.0, links=30.0)) == 1
    assert sessions_together(range(8), pipe(step=20.0, links=0.0)) > 1
    assert sessions_together(range(1), pipe(step=5.0, links=0.0)) == 1


@pytest.mark.parametrize("links", [0.0, 20.0, 50.0])
def test_the_surer_the_guesses_the_wider_the_windows(links: float) -> None:
    widths = [best_width([chance**i for i in range(1, 33)], pipe(5.0, links)).rows for chance in (0.3, 0.7, 0.9, 0.999)]
    assert widths == sorted(widths)
    assert widths[0] <= 3
    assert widths[-1] >= 16


def test_the_surer_the_guesses_the_more_of_them_leave_together() -> None:
    together = [drafts_together(chance, 8.0, pipe(9.5, 40.0), 16) for chance in (0.0, 0.3, 0.8, 0.96, 1.0)]
    assert together == sorted(together)
    assert together[:2] == [1, 1]
    assert 3 <= together[3] <= 5


def test_a_slow_drafter_is_not_waited_for_and_no_window_is_wider_than_it_may_be() -> None:
    assert drafts_together(0.96, 100.0, pipe(5.0, 40.0), 16) == 1
    assert drafts_together(0.96, 1.0, pipe(20.0, 40.0), 2) == 2
    assert drafts_together(0.96, 1.0, pipe(20.0, 40.0), 0) == 1


def test_windows_that_none_may_follow_are_wider() -> None:
    held = [0.9**i for i in range(1, 33)]
    alone = best_width(held, pipe(5.0, 30.0), follows=False).rows
    assert alone > best_width(held, pipe(5.0, 30.0)).rows


def test_sessions_are_not_grouped_anew_for_little() -> None:
    wide = pipe(step=18.0, links=30.0, row=0.8)
    free = sessions_together(range(8), wide)
    assert sessions_together(range(8), wide, held=free + 1) == free + 1
    assert sessions_together(range(8), wide, held=1) == free
    assert sessions_together(range(2), wide, held=8) <= 2


@pytest.mark.parametrize(
    ("slots", "size", "wanted"),
    [
        ([5], 4, [[5]]),
        ([0, 1, 2, 3, 4, 5, 6, 7], 3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        ([7, 2, 0, 5], 2, [[0, 2], [5, 7]]),
        ([0, 1, 2, 7], 2, [[0, 1, 2], [7]]),
        ([3, 1], 9, [[1, 3]]),
    ],
)
def test_neighbours_share_a_pass(slots: list[int], size: int, wanted: list[list[int]]) -> None:
    assert groups(slots, size) == wanted


@given(slots=st.lists(st.integers(0, 40), min_size=1, max_size=20, unique=True), size=st.integers(1, 20))
def test_every_slot_is_in_one_group_and_none_is_wider_than_it_must_be(slots: list[int], size: int) -> None:
    found = groups(slots, size)
    assert [slot for group in found for slot in group] == sorted(slots)
    count = -(-len(slots) // size)
    assert len(found) <= count
    order = sorted(slots)
    even = [order[len(order) * number // count : len(order) * (number + 1) // count] for number in range(count)]
    assert max(map(span, found)) <= max(map(span, even))


def test_slots_far_apart_do_not_share_a_pass() -> None:
    dear_rows = pipe(step=4.0, links=5.0, row=4.0)
    assert sessions_together([0, 1, 2, 3], dear_rows) >= sessions_together([0, 20, 40, 60], dear_rows) == 1


def flat(stages: int, each_row_ms: float = 1.5) -> PipelineState:
    """Equal stages."""
    points = [CostPoint(width=rows, ms=4.0 + each_row_ms * rows) for rows in (1, 64)]
    whole = [CostPoint(width=point.width, ms=stages * point.ms) for point in points]
    return PipelineState(points, whole, 10.0, 32)


@given(st.integers(1, 5000), st.integers(1, 512), st.integers(1, 6))
def test_a_prompts_chunks_are_never_longer_than_a_pass_may_be(tokens: int, most: int, stages: int) -> None:
    assert 1 <= chunk_rows(tokens, most, flat(stages)) <= most


def test_short_prompts_come_in_chunks_of_which_all_stages_have_some() -> None:
    assert chunk_rows(100, 64, flat(1)) == 64, "one stage wants few passes"
    assert chunk_rows(100, 64, flat(2)) < 64
    assert chunk_rows(100, 64, flat(4)) <= chunk_rows(100, 64, flat(2))
    assert chunk_rows(5000, 64, flat(2)) == 64, "of a long one all stages have some anyway"
    assert chunk_rows(100, 64, flat(2, each_row_ms=0.01)) == 64, "where rows cost nothing, passes do"
