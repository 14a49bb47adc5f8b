"""Drafts never change the tokens of models that keep a running state, or look back through a window."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.engine.driving import Greedy, generate, no_drafts, one, same_logits, start
from tests.engine.slices.recipes import recipe
from tests.engine.tiny_hybrids import write_gemma3, write_jamba, write_lfm2
from tests.engine.tiny_models import VOCABULARY, write_mamba
from twd.decoding.window import Logits, Window
from twd.drafting.ngram import NgramIndex
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.exactness import self_test
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.rollback.find import FoundUndo, open_undoable
from twd.engine.target import LocalTarget
from twd.wire.failures import FailureCode, TwdError

Opened = tuple[LocalTarget, FoundUndo]
WRITERS: dict[str, Callable[[Path], Path]] = {
    "mamba": write_mamba,
    "lfm2": write_lfm2,
    "jamba": write_jamba,
    "gemma3": write_gemma3,
    "rwkv6": recipe("rwkv6").write,
}
COUNT = 24


@pytest.fixture(scope="module", params=sorted(WRITERS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    with LoadedGguf.load(ModelLoadOptions(WRITERS[request.param](path))) as loaded:
        yield loaded


@contextmanager
def opened(model: LoadedGguf, parallel: int = 1, snapshots: int = 16, ctx_size: int = 512) -> Iterator[Opened]:
    context, found = open_undoable(model, ContextSettings(ctx_size=ctx_size, parallel=parallel, threads=1), snapshots)
    with context:
        yield LocalTarget(context, can_rollback=found.works, undo=found.undo), found


class Sampled(Greedy):
    """Draws by weight, with noise that depends on the position alone."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        super().pick(logits, history)
        dice = random.Random(len(history))
        weights = [2.0 ** float(one) for one in logits - logits.max()]
        return dice.choices(range(len(weights)), weights)[0]


def drafters(truth: Sequence[int], dice: random.Random) -> Iterator[Callable[[list[int]], list[int]]]:
    def liar(_: list[int]) -> list[int]:
        return [dice.randrange(VOCABULARY) for _ in range(dice.randint(0, 9))]

    def copy(out: list[int]) -> list[int]:
        return list(truth[len(out) : len(out) + 5])

    def half_right(out: list[int]) -> list[int]:
        guesses = list(truth[len(out) : len(out) + dice.randint(0, 7)])
        if guesses and dice.random() < 0.6:
            guesses[dice.randrange(len(guesses))] = dice.randrange(VOCABULARY)
        return guesses

    def ngram(out: list[int]) -> list[int]:
        index = NgramIndex(1)
        index.extend(out)
        return list(index.propose(6)[0])

    yield from (liar, copy, half_right, ngram)


@cache
def prompt_of(case: int) -> list[int]:
    dice = random.Random(case)
    return [dice.randrange(VOCABULARY) for _ in range(dice.randint(1, 90))]


@pytest.mark.parametrize("snapshots", [16, 3])
@pytest.mark.parametrize("sampler", [Greedy, Sampled])
def test_drafts_never_change_tokens_or_logits(model: LoadedGguf, snapshots: int, sampler: type[Greedy]) -> None:
    with opened(model, parallel=2, snapshots=snapshots) as (target, _):
        for case in range(3):
            plain = sampler(record=True)
            truth = generate(target, prompt_of(case), COUNT, no_drafts, plain)
            for draft in drafters(truth, random.Random(case)):
                drafted = sampler(record=True)
                assert generate(target, prompt_of(case), COUNT, draft, drafted) == truth
                assert same_logits(plain.seen, drafted.seen)


def test_sessions_with_drafts_share_passes_and_do_not_disturb_each_other(model: LoadedGguf) -> None:
    dice = random.Random(5)
    with opened(model, parallel=3) as (target, _):
        prompts = [prompt_of(case) for case in range(3)]
        truths = [generate(target, prompt, COUNT) for prompt in prompts]
        begun = [start(target, prompt, Greedy()) for prompt in prompts]
        prompt_at, texts = {slot: len(p) for (slot, _), p in zip(begun, prompts, strict=True)}, dict(begun)
        truth_of = {slot: truth for (slot, _), truth in zip(begun, truths, strict=True)}
        while any(len(text) < COUNT for text in texts.values()):
            windows = []
            for slot, text in texts.items():
                guesses = truth_of[slot][len(text) : len(text) + 4]
                wrong = dice.random() < 0.5 and bool(guesses)
                guesses = [*guesses[:-1], (guesses[-1] + 1) % VOCABULARY] if wrong else guesses
                windows.append(Window(slot, 0, prompt_at[slot] + len(text) - 1, (text[-1], *guesses)))
            target.submit(windows)
            for verdict in target.collect():
                assert verdict.failure is None
                texts[verdict.slot] += verdict.tokens
        assert {slot: text[:COUNT] for slot, text in texts.items()} == truth_of


def test_the_self_test_compares_windows_and_finds_them_exact(model: LoadedGguf) -> None:
    with opened(model, parallel=2, ctx_size=768) as (target, found):
        verdict = self_test(target, "plain")
        assert found.works
        assert verdict.exact
        assert verdict.compared > 12


def test_a_failed_pass_leaves_nothing_behind(model: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(model) as (target, _):
        prompt = prompt_of(2)
        truth = generate(target, prompt, COUNT)
        slot, out = start(target, prompt, Greedy())
        decode = Context.decode

        def fail(context: Context, rows: BatchTokens, states: Logits | None = None) -> None:
            decode(context, rows, states)
            raise TwdError(FailureCode.INTERNAL, "made to fail")

        monkeypatch.setattr(Context, "decode", fail)
        window = Window(slot, 0, len(prompt), (out[0], 1, 2, 3))
        assert one(target, window).failure is not None
        monkeypatch.undo()
        while len(out) < COUNT:
            out += one(target, Window(slot, 0, len(prompt) + len(out) - 1, (out[-1], *truth[len(out) :][:3]))).tokens
        assert out[:COUNT] == truth
