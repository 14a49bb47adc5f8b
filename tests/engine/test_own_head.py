"""The head of the target's own file guesses, and the text stays what it is, whatever the head says."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engine.slices.recipes import VOCABULARY, Weights, recipe
from twd.decoding.sampler import SamplerFactory
from twd.decoding.window import VerifyResult, Window
from twd.engine.heads.head import OwnHead, own_head
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.gguf_tools import head_file
from twd.gguf_tools.head_file import OWN_HEADS
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling

COUNT = 60
PROMPT = [int(token) for token in np.random.default_rng(8).integers(1, VOCABULARY - 1, 90)]
SAMPLINGS = [Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=7)]


@pytest.fixture(scope="module", params=["qwen35 with a head", "cohere2moe with a head"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe(request.param).write(tmp_path_factory.mktemp("head") / "model.gguf")


def load(path: Path, *, with_head: bool = True) -> NativeModel:
    plan = LoadPlan(ModelId("m"), path, ctx_size=512, parallel=2, threads=1, test=False, head=with_head)
    return load_native(plan, lambda share, stage: None)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[NativeModel]:
    loaded = load(path)
    yield loaded
    loaded.close()


def write(model: NativeModel, sampling: Sampling, guesses: int = 0, prompt: list[int] = PROMPT) -> list[VerifyResult]:
    """A text, with so many guesses of the head in each window."""
    target = model.target
    sampler = SamplerFactory(model.model.vocab).sampler(sampling, sampling.seed or 0, prompt_len=len(prompt))
    slot, cached = target.open(prompt, sampler)
    tokens, at, drafts = list(prompt), cached, list[int]()
    seen: list[VerifyResult] = []
    while len(tokens) < len(prompt) + COUNT:
        feed = tokens[at:]
        target.submit([Window(slot, 0, at, (*feed, *drafts), committed=len(feed), guesses=guesses)])
        (verdict,) = target.collect()
        assert verdict.failure is None
        seen.append(verdict)
        tokens += verdict.tokens
        at, drafts = len(tokens) - 1, verdict.guesses
    target.close(slot)
    return seen


def text(verdicts: list[VerifyResult]) -> list[int]:
    return [token for verdict in verdicts for token in verdict.tokens][:COUNT]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_its_guesses_change_no_word(path: Path, model: NativeModel, sampling: Sampling) -> None:
    guessed = write(model, sampling, 3)
    assert all(len(one.guesses) == len(one.sure) == 3 for one in guessed)
    assert all(0.0 < sure <= 1.0 for one in guessed for sure in one.sure)
    plain = load(path, with_head=False)
    try:
        assert text(guessed) == text(write(plain, sampling)) == text(write(model, sampling))
    finally:
        plain.close()


def all_knowing(name: str, values: Weights) -> Weights:
    """Weights with which the target looks at its last token alone, and the head does as the target."""
    if name.endswith(("ssm_out.weight", "attn_output.weight", "ffn_down.weight")):
        return np.zeros_like(values)
    if name.endswith("nextn.eh_proj.weight"):
        return np.eye(*values.shape, dtype=np.float32)
    return np.ones_like(values) if "norm" in name else values


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_a_head_that_knows_is_right(sampling: Sampling, tmp_path: Path) -> None:
    """So it reads the right token and the right noise at each place."""
    path = recipe("qwen35 with a head").write(tmp_path / "model.gguf", change=all_knowing)
    loaded = load(path)
    try:
        guessed = write(loaded, sampling, 3)
        assert len(guessed) <= COUNT / 4 + 2
        assert text(guessed) == text(write(loaded, sampling))
        assert len(set(text(guessed))) > 3
    finally:
        loaded.close()


def test_it_reads_a_text_in_pieces_as_at_once(model: NativeModel) -> None:
    """So what it guesses does not depend on how the target came to its text."""
    seen = []
    for guesses in (2, 1):
        tokens = list(PROMPT)
        for verdict in write(model, Sampling(), guesses):
            tokens += verdict.tokens
            seen.append((tuple(tokens), verdict.guesses[0]))
    by_text: dict[tuple[int, ...], set[int]] = {}
    for key, guess in seen:
        by_text.setdefault(key, set()).add(guess)
    assert len(seen) > len(by_text) > 10
    assert all(len(guesses) == 1 for guesses in by_text.values())


def test_it_stops_where_it_is_no_longer_sure(model: NativeModel) -> None:
    target = model.target
    slot, at = target.open(PROMPT, SamplerFactory(model.model.vocab).sampler(Sampling(), 0, prompt_len=len(PROMPT)))
    counts = []
    for least in (0.0, 1.1):
        feed = tuple(PROMPT[at:])
        target.submit([Window(slot, 0, at, feed, committed=len(feed), guesses=3, least=least)])
        counts.append(len(target.collect()[0].guesses))
        at = len(PROMPT) - 1
    target.close(slot)
    assert counts == [3, 1]


def test_two_sessions_have_guesses_of_their_own(path: Path) -> None:
    prompts = (PROMPT, PROMPT[::-1])
    first, second = load(path), load(path)
    try:
        alone = [write(first, Sampling(), 2, prompt)[0].guesses for prompt in prompts]
        target = second.target
        sampler = second.samplers.sampler(Sampling(), 0, prompt_len=1)
        slots = [target.open(prompt, sampler)[0] for prompt in prompts]
        for slot, prompt in zip(slots, prompts, strict=True):
            target.submit([Window(slot, 0, 0, tuple(prompt), committed=len(prompt), guesses=2)])
        found = {one.slot: one.guesses for one in target.collect()}
        assert [found[slot] for slot in slots] == alone
    finally:
        first.close()
        second.close()


def test_a_head_that_fails_costs_only_its_guesses(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(path)
    try:
        plain = text(write(loaded, Sampling()))

        def broken(*_: object) -> None:
            raise TwdError(FailureCode.INTERNAL, "a test broke it")

        monkeypatch.setattr(OwnHead, "read", broken)
        verdicts = write(loaded, Sampling(), 3)
        assert text(verdicts) == plain
        assert not any(one.guesses for one in verdicts)
        assert "left aside: a test broke it" in caplog.text
    finally:
        loaded.close()


@pytest.mark.parametrize("architecture", sorted(OWN_HEADS))
def test_every_head_of_the_table_guesses(architecture: str, tmp_path: Path) -> None:
    loaded = load(recipe(f"{architecture} with a head").write(tmp_path / "model.gguf"))
    try:
        guessed, plain = (write(loaded, Sampling(), guesses) for guesses in (2, 0))
        assert all(len(one.guesses) == 2 for one in guessed)
        assert text(guessed) == text(plain)
    finally:
        loaded.close()


def test_a_head_that_was_not_tried_is_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_file, "OWN_HEADS", frozenset())
    loaded = load(recipe("qwen35 with a head").write(tmp_path / "model.gguf"))
    assert loaded.target.head is None
    assert "without a head: heads of qwen35 models were not tried" in loaded.facts.note
    loaded.close()


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    loaded = load(recipe("qwen35").write(tmp_path / "model.gguf"))
    assert loaded.target.head is None
    assert own_head(loaded.target.context) is None
    loaded.close()


def test_status_tells_of_it(model: NativeModel) -> None:
    assert "its own head guesses, " in model.facts.note
