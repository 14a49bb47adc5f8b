"""The local target on tiny models: prefixes, copies, trees, padding, refusals, models without rollback."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.engine.driving import Greedy, generate, no_drafts, one, same_logits, start
from twd.decoding.window import Logits, Window
from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings
from twd.engine.library import llama
from twd.engine.model import LoadedGguf
from twd.engine.probe import can_rollback
from twd.engine.target import LocalTarget
from twd.wire.failures import FailureCode, TwdError

PROMPT = [5, 9, 2, 33, 7, 7, 1, 60, 12, 3]
COUNT = 40


@contextmanager
def opened(
    model: LoadedGguf,
    parallel: int = 1,
    ctx_size: int = 256,
    layout: CacheLayout = CacheLayout.STREAMS,
    branches: int = 0,
) -> Iterator[LocalTarget]:
    settings = ContextSettings(ctx_size=ctx_size, parallel=parallel, layout=layout, branches=branches, threads=1)
    with Context(model, settings) as context:
        yield LocalTarget(context, rows_min=2, can_rollback=can_rollback(context))


@pytest.fixture(scope="module")
def truth(tiny: LoadedGguf) -> tuple[list[int], Greedy]:
    with opened(tiny) as target:
        sampler = Greedy(record=True)
        return generate(target, PROMPT, COUNT, no_drafts, sampler), sampler


def test_prefix_of_the_last_conversation_is_reused_exactly(tiny: LoadedGguf, truth: tuple[list[int], Greedy]) -> None:
    with opened(tiny) as target:
        generate(target, PROMPT, 12)
        slot, cached = target.open([*PROMPT, *truth[0][:8], 1, 2], Greedy())
        assert cached == len(PROMPT) + 8
        target.close(slot)
        sampler = Greedy(record=True)
        assert generate(target, PROMPT, COUNT, no_drafts, sampler) == truth[0]
        assert same_logits(sampler.seen, truth[1].seen)


@pytest.mark.parametrize("ctx_size", [256, 1024], ids=["the whole slot", "what it holds"])
def test_prefix_of_a_running_session_is_copied_exactly(tiny: LoadedGguf, ctx_size: int) -> None:
    long_prompt = PROMPT * 12
    with opened(tiny, parallel=2, ctx_size=ctx_size) as target:
        assert target.context.copy_cost is not None
        assert target.context.copy_cost.saves_cells(len(long_prompt)) == (ctx_size == 1024)
        plain = generate(target, long_prompt, 20)
        slot, out = start(target, long_prompt, Greedy())
        other, cached = target.open(tuple(long_prompt), sampler := Greedy(record=True))
        assert other != slot
        assert cached == len(long_prompt) - 1
        answer = one(target, Window(other, 0, cached, (long_prompt[-1], *plain))).tokens
        assert answer[:20] == plain
        assert out == plain[:1]
        assert len(sampler.seen) == 21
        on = one(target, Window(slot, 0, len(long_prompt), tuple(plain[:8]))).tokens
        assert on == plain[1:9], "the source goes on as if nobody had copied it"


def test_what_llama_cpp_does_not_load_is_copied_as_a_whole(tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    long_prompt = PROMPT * 12
    monkeypatch.setattr(llama, "llama_state_seq_set_data_ext", lambda *given: 0)
    with opened(tiny, parallel=2, ctx_size=1024) as target:
        plain = generate(target, long_prompt, 20)
        start(target, long_prompt, Greedy())
        other, cached = target.open(tuple(long_prompt), Greedy())
        assert cached == len(long_prompt) - 1
        assert one(target, Window(other, 0, cached, (long_prompt[-1], *plain))).tokens[:20] == plain


def test_long_prefill_in_chunks_equals_prefill_at_once(tiny: LoadedGguf) -> None:
    prompt = PROMPT * 20
    with opened(tiny) as target:
        at_once = generate(target, prompt, 10)
    with opened(tiny) as target:
        slot, _ = target.open(prompt, Greedy())
        for at in range(0, 195, 13):
            verdict = one(target, Window(slot, 0, at, tuple(prompt[at : at + 13]), picks=False))
            assert verdict.tokens == []
            assert len(verdict.path) == 13
        verdict = one(target, Window(slot, 0, 195, tuple(prompt[195:]), committed=5))
        assert verdict.tokens == at_once[:1]


def test_a_window_that_starts_earlier_takes_the_text_back(tiny: LoadedGguf, truth: tuple[list[int], Greedy]) -> None:
    with opened(tiny) as target:
        slot, out = start(target, PROMPT, Greedy())
        out += one(target, Window(slot, 0, len(PROMPT), (out[0], *truth[0][1:9]))).tokens
        again = one(target, Window(slot, 1, len(PROMPT) + 2, (truth[0][2],)))
        assert again.tokens == [truth[0][3]]
        assert again.epoch == 1


def test_trees_give_the_text_and_logits_of_single_steps(tiny: LoadedGguf, truth: tuple[list[int], Greedy]) -> None:
    dice = random.Random(3)
    with opened(tiny, layout=CacheLayout.TREE, branches=7) as target:
        sampler = Greedy(record=True)
        slot, out = start(target, PROMPT, sampler)
        while len(out) < COUNT:
            right = truth[0][len(out) : len(out) + 4]
            branches = [right, [dice.randrange(64) for _ in range(3)], [*right[:2], dice.randrange(64)]]
            dice.shuffle(branches)
            tokens, parents = as_tree(out[-1], branches)
            out += one(target, Window(slot, 0, len(PROMPT) + len(out) - 1, tokens, parents)).tokens
        assert out[:COUNT] == truth[0]
        assert same_logits(sampler.seen, truth[1].seen)


def test_only_a_side_branch_is_fed_again(tiny: LoadedGguf, truth: tuple[list[int], Greedy]) -> None:
    right, at = truth[0], len(PROMPT)
    with opened(tiny, layout=CacheLayout.TREE, branches=2) as target:
        slot, _ = start(target, PROMPT, Greedy())
        tokens, parents = as_tree(right[0], [right[1:4], [1, 1]])
        assert one(target, Window(slot, 0, at, tokens, parents)).tokens == right[1:5]
        assert target.context.end(slot) == at + 4
        tokens, parents = as_tree(right[4], [[1, 1], right[5:8]])
        assert one(target, Window(slot, 0, at + 4, tokens, parents)).tokens == right[5:9]
        assert target.context.end(slot) == at + 5
        assert one(target, Window(slot, 0, at + 8, (right[8],))).tokens == right[9:10]
        assert target.context.end(slot) == at + 9


def as_tree(root: int, branches: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tokens, parents = [root], [-1]
    for branch in branches:
        node = 0
        for token in branch:
            known = [i for i in range(len(tokens)) if parents[i] == node and tokens[i] == token]
            if not known:
                known = [len(tokens)]
                tokens.append(token)
                parents.append(node)
            node = known[0]
    return tuple(tokens), tuple(parents)


def test_unified_layout_serves_sessions_of_unequal_width(tiny: LoadedGguf) -> None:
    with opened(tiny, parallel=3, layout=CacheLayout.UNIFIED) as target:
        slots = [start(target, PROMPT[: 5 + number], Greedy())[0] for number in range(3)]
        target.submit([Window(slot, 0, 5 + number, (1,) * (1 + number)) for number, slot in enumerate(slots)])
        assert [verdict.failure for verdict in target.collect()] == [None] * 3


def test_several_windows_of_a_slot_are_judged_in_order(tiny: LoadedGguf, truth: tuple[list[int], Greedy]) -> None:
    with opened(tiny) as target:
        slot, out = start(target, PROMPT, Greedy())
        at = len(PROMPT)
        target.submit([Window(slot, 0, at, (out[0],)), Window(slot, 0, at + 1, (truth[0][1],))])
        assert [verdict.tokens for verdict in target.collect()] == [[truth[0][1]], [truth[0][2]]]


def test_a_failing_picker_ends_its_own_session_only(tiny: LoadedGguf, truth: tuple[list[int], Greedy]) -> None:
    class Failing:
        def pick(self, logits: Logits, history: Sequence[int]) -> int:
            raise TwdError(FailureCode.BAD_GRAMMAR, "nothing fits the grammar")

    with opened(tiny, parallel=2) as target:
        bad, _ = target.open(PROMPT, Failing())
        good, _ = target.open(PROMPT, Greedy())
        target.submit([Window(slot, 0, 0, tuple(PROMPT), committed=len(PROMPT)) for slot in (bad, good)])
        verdicts = {verdict.slot: verdict for verdict in target.collect()}
        failure = verdicts[bad].failure
        assert failure is not None
        assert failure.code is FailureCode.BAD_GRAMMAR
        assert verdicts[bad].tokens == verdicts[bad].path == []
        assert verdicts[good].tokens == truth[0][:1]


@pytest.mark.parametrize(
    ("window", "code"),
    [
        (Window(0, 0, 30, (1,)), FailureCode.INTERNAL),
        (Window(0, 0, 10, (1,) * 90), FailureCode.INTERNAL),
        (Window(0, 0, 10, (64,)), FailureCode.BAD_REQUEST),
        (Window(0, 0, 250, (1,) * 7), FailureCode.CONTEXT_OVERFLOW),
        (Window(0, 0, 10, (1, 2, 3), parents=(-1, 0, 0)), FailureCode.UNSUPPORTED),
    ],
)
def test_bad_windows_fail_alone(
    tiny: LoadedGguf, truth: tuple[list[int], Greedy], window: Window, code: FailureCode
) -> None:
    with opened(tiny) as target:
        start(target, PROMPT, Greedy())
        failure = one(target, window).failure
        assert failure is not None
        assert failure.code is code
        assert one(target, Window(0, 0, 10, (truth[0][0],))).tokens == truth[0][1:2]


def test_prompts_that_cannot_be_served_are_refused_at_once(tiny: LoadedGguf) -> None:
    with opened(tiny) as target:
        for prompt, code in (([1] * 257, FailureCode.CONTEXT_OVERFLOW), ([], FailureCode.BAD_REQUEST)):
            with pytest.raises(TwdError) as caught:
                target.open(prompt, Greedy())
            assert caught.value.code is code
        target.open(PROMPT, Greedy())
        with pytest.raises(TwdError) as caught:
            target.open(PROMPT, Greedy())
        assert caught.value.code is FailureCode.BUSY


def test_the_context_can_be_filled_to_its_last_token(tiny: LoadedGguf) -> None:
    with opened(tiny, parallel=2) as target:
        slot, out = start(target, [1] * 250, Greedy())
        start(target, [1] * 256, Greedy())
        while len(out) < 7:
            verdict = one(target, Window(slot, 0, 249 + len(out), (out[-1],)))
            assert verdict.failure is None
            out += verdict.tokens
        failure = one(target, Window(slot, 0, 256, (out[-1],))).failure
        assert failure is not None
        assert failure.code is FailureCode.CONTEXT_OVERFLOW


def test_windows_of_closed_slots_get_no_verdict(tiny: LoadedGguf) -> None:
    with opened(tiny) as target:
        slot, out = start(target, PROMPT, Greedy())
        target.submit([Window(slot, 0, len(PROMPT), (out[0],))])
        target.close(slot)
        target.close(slot)
        assert target.collect() == []


def test_windows_of_an_earlier_session_never_reach_the_next_one(
    tiny: LoadedGguf, truth: tuple[list[int], Greedy]
) -> None:
    with opened(tiny) as target:
        slot, out = start(target, PROMPT, Greedy())
        target.submit([Window(slot, 0, len(PROMPT), (out[0],))])
        target.close(slot)
        assert target.open([*PROMPT, 4], Greedy()) == (slot, len(PROMPT))
        target.submit([Window(slot, 0, len(PROMPT), (4,))])
        assert [verdict.at for verdict in target.collect()] == [len(PROMPT)]


def test_no_row_is_ever_computed_alone_with_float_weights(tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[tuple[int, int]] = []
    decode = Context.decode

    def watch(context: Context, rows: BatchTokens) -> None:
        widths.append((len(rows), sum(rows.outputs)))
        decode(context, rows)

    with opened(tiny) as target:
        monkeypatch.setattr(Context, "decode", watch)
        slot, out = start(target, [3] * 65, Greedy())
        one(target, Window(slot, 0, 65, tuple(out)))
        one(target, Window(slot, 0, 66, (1, 2, *[5] * 63), committed=2))
        one(target, Window(slot, 0, 66, (1,), picks=False))
        assert target.context.end(slot) == 67
    assert all(rows >= 2 and outputs != 1 for rows, outputs in widths)


def test_a_model_without_rollback_takes_no_drafts_and_stays_right(mamba: LoadedGguf) -> None:
    with opened(mamba, parallel=3) as target:
        assert not target.can_rollback
        text = generate(target, PROMPT, 12)
        slot, cached = target.open([*PROMPT, *text[:11], 5], Greedy())
        assert cached == len(PROMPT) + 11
        failure = one(target, Window(slot, 0, cached, (5, 1, 2))).failure
        assert failure is not None
        assert failure.code is FailureCode.UNSUPPORTED
        target.close(slot)
        other, out = start(target, PROMPT, Greedy())
        while len(out) < 12:
            out += one(target, Window(other, 0, len(PROMPT) + len(out) - 1, (out[-1],))).tokens
        assert out == text
        again = one(target, Window(other, 0, len(PROMPT) + 3, (text[3],)))
        assert again.tokens == [text[4]]


@pytest.mark.parametrize("together", [2, 4])
def test_sessions_share_passes_of_one_width_and_change_nothing(tiny: LoadedGguf, together: int) -> None:
    """Alone, beside others and with drafts: the same logits, and one pass for each block of slots."""
    prompts = [[*PROMPT, number] for number in range(4)]
    with opened(tiny, parallel=4) as target:
        target.fix_rows(8, together)
        alone = [Greedy(record=True) for _ in prompts]
        truths = [generate(target, prompt, 16, no_drafts, own) for prompt, own in zip(prompts, alone, strict=True)]
    with opened(tiny, parallel=4) as target:
        target.fix_rows(8, together)
        beside = [Greedy(record=True) for _ in prompts]
        begun = [start(target, prompt, own) for prompt, own in zip(prompts, beside, strict=True)]
        passes = list[int]()
        target.tell_passes(passes.append)
        dice, rounds = random.Random(together), 0
        while any(len(out) < 16 for _, out in begun):
            rounds += 1
            windows = []
            for number, (slot, out) in enumerate(begun):
                guesses = truths[number][len(out) : len(out) + dice.randrange(4)]
                wrong = [*guesses, (out[-1] + 1) % 64]
                windows.append(Window(slot, 0, len(prompts[number]) + len(out) - 1, (out[-1], *wrong)))
            target.submit(windows)
            for verdict in target.collect():
                next(out for slot, out in begun if slot == verdict.slot).extend(verdict.tokens)
        assert passes == [8 * together] * (4 // together * rounds)
        assert [out[:16] for _, out in begun] == truths
        assert all(same_logits(one.seen, other.seen) for one, other in zip(alone, beside, strict=True))
