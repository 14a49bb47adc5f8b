"""A real model over real stages and links: the texts and log probabilities of the model in one process, bit for bit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ring.rings import Hand, Ring, native_ring
from twd.decoding.window import Window
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.engine.slices.engine import StagePlan
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice_cache import cached_slice, find_slice
from twd.ring.frames import Open, PassFrame, SessionSpec, VoidEpochs, WindowItem
from twd.stage.native import SlicePlan, load_slice
from twd.wire.base import ModelId
from twd.wire.failures import TwdError
from twd.wire.job import Grammar, GrammarKind, Sampling, TokenLogprob

pytestmark = pytest.mark.model
CTX, PARALLEL, TOKENS = 384, 3, 24
TEXT = "The keeper of the lighthouse had three cats, and each of them"
SAMPLINGS = [Sampling(), Sampling(temperature=0.9, top_k=50), Sampling(temperature=0.7, repeat_penalty=1.2)]


@pytest.fixture(scope="module")
def whole(q4_path: Path) -> Iterator[NativeModel]:
    plan = LoadPlan(ModelId("m"), q4_path, ctx_size=CTX, parallel=PARALLEL, threads=1, test=False)
    native = load_native(plan, lambda share, stage: None)
    yield native
    native.close()


@pytest.fixture(scope="module")
def ring(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    folder = tmp_path_factory.mktemp("slices")
    with native_ring(q4_path, (0, 13, 30), folder, parallel=PARALLEL, ctx_size=CTX) as ring:
        yield ring


@pytest.fixture
def hand(ring: Ring) -> Iterator[Hand]:
    hand = ring.connect()
    yield hand
    hand.close()


def test_a_stage_refuses_to_cut_another_file_than_the_one_that_is_meant(q4_path: Path, tmp_path: Path) -> None:
    plan = SlicePlan(ModelId("m"), q4_path, StagePlan(q4_path, 0, 4, 0, False), tmp_path, hash="0123456789")
    with pytest.raises(TwdError, match=r"is another file by now .*, not 01234567\); copy the model anew"):
        load_slice(plan, lambda share, stage: None)
    assert not list(tmp_path.iterdir())


def test_a_stage_needs_its_slice_alone(q4_path: Path, tmp_path: Path) -> None:
    model = file_hash(q4_path)
    made = cached_slice(q4_path, 0, 4, False, tmp_path)
    assert find_slice(tmp_path, model, 0, 4, False) == made
    assert find_slice(tmp_path, model, 0, 5, False) is None
    plan = SlicePlan(ModelId("m"), made, StagePlan(made, 0, 4, 0, False, ctx_size=256), tmp_path, hash=model)
    loaded = load_slice(plan, lambda share, stage: None)
    loaded.engine.close()
    assert (loaded.held.file_hash, loaded.held.first, loaded.held.end, loaded.held.layers) == (model, 0, 4, 30)
    with pytest.raises(TwdError, match="another file"):
        load_slice(replace(plan, hash="0" * 32), lambda share, stage: None)
    other = replace(plan, stage=replace(plan.stage, first=4, end=8))
    with pytest.raises(TwdError, match="holds layers 0-4"):
        load_slice(other, lambda share, stage: None)


def spec_of(sampling: Sampling, prompt: list[int], **more: object) -> SessionSpec:
    return SessionSpec(sampling, 11, len(prompt), ignore_eos=True, logprobs=2, **more)  # type: ignore[arg-type]


def said_alone(whole: NativeModel, prompt: list[int], spec: SessionSpec) -> tuple[list[int], list[TokenLogprob]]:
    """Token by token, in this process."""
    sampler = whole.samplers.sampler(
        spec.sampling, spec.seed, prompt_len=spec.prompt_len, grammar=spec.grammar, ignore_eos=spec.ignore_eos
    )
    slot, cached = whole.target.open(prompt, sampler, whole.samplers.reporter(2))
    tokens, logprobs, feed, at = list[int](), list[TokenLogprob](), prompt[cached:], cached
    while len(tokens) < TOKENS:
        whole.target.submit([Window(slot, 0, at, tuple(feed), committed=len(feed))])
        verdict = whole.target.collect()[0]
        tokens += verdict.tokens
        logprobs += verdict.logprobs
        at, feed = len(prompt) + len(tokens) - 1, [tokens[-1]]
        if tokens[-1] in whole.model.vocab.end_tokens:
            break
    whole.target.close(slot)
    return tokens, logprobs


def said_by(
    hand: Hand, slot: int, prompt: list[int], drafts: list[int], *, width: int, depth: int
) -> tuple[list[int], list[TokenLogprob]]:
    """By windows of drafts, several in flight; where a window does not hold, a new epoch begins behind what stands."""
    tokens, logprobs, epoch, number = list[int](), list[TokenLogprob](), 1, 0
    while len(tokens) < len(drafts):
        text = [*prompt, *tokens]
        guess = [*text, *drafts[len(tokens) :]]
        at = 0 if not tokens else len(text) - 1
        sent = 0
        for _ in range(depth):
            window = guess[at : len(text) - 1 + width] if not sent and not tokens else guess[at : at + width]
            if not window:
                break
            number += 1
            sent += 1
            hand.send(PassFrame(number, [WindowItem(slot, epoch, at, window, len(text) - at if sent == 1 else 1)]))
            at += len(window)
        for _ in range(sent):
            for outcome in hand.verdicts().outcomes:
                assert outcome.failure is None, outcome.failure
                tokens += outcome.tokens
                logprobs += outcome.logprobs
        epoch += 1
        hand.void(VoidEpochs(slot, epoch))
    return tokens[: len(drafts)], logprobs[: len(drafts)]


@pytest.mark.parametrize(
    ("number", "width", "depth"),
    [*(pytest.param(*case, marks=pytest.mark.thorough) for case in ((0, 7, 4), (2, 1, 1))), (1, 4, 2), (2, 7, 4)],
)
def test_the_ring_says_what_the_model_alone_says(
    whole: NativeModel, hand: Hand, number: int, width: int, depth: int
) -> None:
    prompt = whole.tokenize(TEXT)
    spec = spec_of(SAMPLINGS[number], prompt)
    truth, logprobs = said_alone(whole, prompt, spec)
    drafts = [token if at % 6 else (token + 1) % 1000 for at, token in enumerate(truth)]
    hand.send(Open(number, spec))
    assert said_by(hand, number, prompt, drafts, width=width, depth=depth) == (truth, logprobs)


def test_a_grammar_is_obeyed_where_the_head_is(whole: NativeModel, hand: Hand) -> None:
    prompt = whole.tokenize("A person as JSON: ")
    spec = spec_of(Sampling(), prompt, grammar=Grammar(kind=GrammarKind.JSON))
    truth, _ = said_alone(whole, prompt, spec)
    hand.send(Open(0, spec))
    said, _ = said_by(hand, 0, prompt, truth, width=1, depth=1)
    assert said == truth
    assert whole.render(said).lstrip().startswith(("{", "[", '"'))


def test_sessions_of_unlike_windows_share_a_pass(whole: NativeModel, hand: Hand) -> None:
    prompts = [whole.tokenize(text) for text in (TEXT, "One, two,", "In the beginning there was a")]
    specs = [spec_of(Sampling(), prompt) for prompt in prompts]
    truths = [said_alone(whole, prompt, spec)[0] for prompt, spec in zip(prompts, specs, strict=True)]
    for slot, spec in enumerate(specs):
        hand.send(Open(slot, spec))
    hand.send(PassFrame(1, [WindowItem(slot, 1, 0, prompt, len(prompt)) for slot, prompt in enumerate(prompts)]))
    said = {outcome.slot: list(outcome.tokens) for outcome in hand.verdicts().outcomes}
    for number in range(2, 12):
        items = []
        for slot, prompt in enumerate(prompts):
            have = said[slot]
            drafts = truths[slot][len(have) : len(have) + slot]
            items.append(WindowItem(slot, number, len(prompt) + len(have) - 1, [have[-1], *drafts]))
        hand.send(PassFrame(number, items))
        for outcome in hand.verdicts().outcomes:
            said[outcome.slot] += outcome.tokens
    for slot, truth in enumerate(truths):
        count = min(len(said[slot]), len(truth))
        assert said[slot][:count] == truth[:count]


def test_nonsense_reaches_no_engine(ring: Ring, hand: Hand) -> None:
    hand.send(Open(0, SessionSpec(Sampling(), 1, 1)))
    for item in (
        WindowItem(0, 1, 5, [1]),
        WindowItem(0, 2, 0, [1 << 30]),
        WindowItem(0, 3, 0, [1] * 200, 200),
        WindowItem(2, 1, 0, [1]),
        WindowItem(77, 1, 0, [1]),
        WindowItem(0, 4, CTX + 5, [1]),
    ):
        hand.send(PassFrame(1, [item]))
        assert hand.verdicts().outcomes[0].failure is not None
    hand.send(PassFrame(2, [WindowItem(0, 9, 0, [1, 2, 3], 3)]))
    assert hand.verdicts().outcomes[0].tokens
    assert [stage.failures for stage in ring.stages] == [[], []]
