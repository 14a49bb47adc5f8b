"""DSpark and DFlash 2: their guesses are those that a computation with numpy finds, and change no word."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.engine.block_reference import BlockReference, deepseek, dflash_2, dspark, strong
from tests.engine.head_inputs import heard, tensors_of
from tests.engine.slices.recipes import Change, Recipe, Weights, recipe
from tests.engine.test_eagle_head import last_token_alone, load
from tests.engine.test_own_head import COUNT, PROMPT, SAMPLINGS, text, write
from twd.decoding.window import Window
from twd.engine.context import Logits
from twd.engine.heads.block import BlockHead
from twd.wire.job import Sampling

KINDS = {
    "DSpark": dspark(),
    "behind the anchor": dspark(from_anchor=False),
    "without confidence": dspark(confident=False),
    "of few words": dspark(words=40),
    "DFlash 2": dflash_2(),
}


KINDS_OF_HEADS = [
    pytest.param(one, marks=() if one in ("DSpark", "DFlash 2") else pytest.mark.thorough) for one in KINDS
]
SAMPLED_FIRST = pytest.mark.parametrize(
    "sampling",
    [pytest.param(SAMPLINGS[0], marks=pytest.mark.thorough, id="greedy"), pytest.param(SAMPLINGS[1], id="sampled")],
)
"""Greedy texts where there is more time: of a sampled one the head must guess what the dice say, too."""


@pytest.fixture(params=KINDS_OF_HEADS)
def head(request: pytest.FixtureRequest) -> Recipe:
    return KINDS[request.param]


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """What heads read of each position."""
    return heard(BlockHead, monkeypatch)


@SAMPLED_FIRST
def test_it_guesses_what_the_formulas_say(
    head: Recipe, sampling: Sampling, inputs: list[Weights], tmp_path: Path
) -> None:
    path = recipe("llama").write(tmp_path / "model.gguf")
    reference = BlockReference(head.write(tmp_path / "head.gguf", change=strong), path)
    loaded, plain = load(path, reference.path), load(path)
    try:
        tokens, sampler = list(PROMPT), loaded.samplers.sampler(sampling, sampling.seed or 0, prompt_len=len(PROMPT))
        for verdict in (guessed := write(loaded, sampling, 8)):
            tokens += verdict.tokens
            wanted, sure = reference.guess(np.array(inputs[: len(tokens) - 1]), tokens, 8, sampler)
            assert verdict.guesses == wanted
            assert verdict.sure == pytest.approx(sure, abs=0.02)
        assert len({tuple(one.guesses) for one in guessed}) > 3
        assert text(guessed) == text(write(plain, sampling))
    finally:
        loaded.close()
        plain.close()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_one_that_knows_is_right(sampling: Sampling, tmp_path: Path) -> None:
    """Each guess follows the one before it, also where the sampler did not take the likeliest token."""
    path = recipe("llama").write(tmp_path / "model.gguf", change=last_token_alone)
    shared = tensors_of(path)
    embedded = shared["token_embd.weight"]
    normed: Weights = embedded / np.sqrt((embedded * embedded).mean(axis=1, keepdims=True))

    def knowing(name: str, values: Weights) -> Weights:
        if name == "output_norm.weight":
            return np.zeros_like(values)
        if name == "markov_w1.weight":
            return normed
        return shared["output.weight"] if name == "markov_w2.weight" else values

    head = dspark(rank=64, confident=False).write(tmp_path / "head.gguf", change=knowing)
    loaded, plain = load(path, head), load(path)
    try:
        guessed = write(loaded, sampling, 6)
        assert len(guessed) <= COUNT / 7 + 2
        assert text(guessed) == text(write(plain, sampling))
    finally:
        loaded.close()
        plain.close()


def test_several_sessions_have_guesses_of_their_own(head: Recipe, tmp_path: Path) -> None:
    path = recipe("llama").write(tmp_path / "model.gguf")
    made = head.write(tmp_path / "head.gguf", change=strong)
    prompts = [PROMPT[shift:] + PROMPT[:shift] for shift in (0, 5, 11)]
    alone, together = load(path, made), load(path, made, parallel=3)
    try:
        truth = [write(alone, Sampling(), 6, prompt)[0].guesses for prompt in prompts]
        sampler = together.samplers.sampler(Sampling(), 0, prompt_len=1)
        slots = [together.target.open(prompt, sampler)[0] for prompt in prompts]
        for slot, prompt in zip(slots, prompts, strict=True):
            together.target.submit([Window(slot, 0, 0, tuple(prompt), committed=len(prompt), guesses=6)])
        found = {one.slot: one.guesses for one in together.target.collect()}
        assert [found[slot] for slot in slots] == truth
        assert len({tuple(guesses) for guesses in truth}) == 3
    finally:
        alone.close()
        together.close()


@pytest.mark.parametrize("kind", KINDS_OF_HEADS)
def test_the_longest_block_of_many_sessions_fits_the_graph(kind: str, tmp_path: Path) -> None:
    """llama.cpp would end the process."""
    path, one = recipe("llama").write(tmp_path / "model.gguf"), KINDS[kind]
    longest = replace(one, fields=one.fields | {"block_size": ("UINT32", 32)})
    head = longest.write(tmp_path / "head.gguf", change=strong)
    for parallel in (1, 2, 16):
        loaded = load(path, head, parallel=parallel)
        try:
            most = len(write(loaded, Sampling(), 40)[0].guesses)
            assert most == (32 if one.fields.get("sample_from_anchor", ("BOOL", False))[1] else 31)
        finally:
            loaded.close()


@SAMPLED_FIRST
def test_layers_as_those_of_deepseek(sampling: Sampling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same head without links tells what the guesses are made of."""
    path = recipe("deepseek4").write(tmp_path / "model.gguf")
    head = deepseek().write(tmp_path / "head.gguf", change=strong)
    unlinked = deepseek(linked=False).write(tmp_path / "unlinked.gguf", change=strong)
    kept = {one.name: np.array(one.data) for one in gguf.GGUFReader(head).tensors}
    same = {name: values for name, values in kept.items() if not name.startswith("markov")}
    deepseek(linked=False).write(unlinked, change=lambda name, values: same[name])
    seen: list[Logits] = []
    likely = BlockHead._sure

    def listening(self: BlockHead, number: int, logits: Logits, token: int) -> float:
        seen.append(logits.copy())
        return likely(self, number, logits, token)

    loaded, bare = load(path, head), load(path, unlinked)
    try:
        guessed = write(loaded, sampling, 5)
        assert all(len(one.guesses) == 5 for one in guessed)
        assert len({tuple(one.guesses) for one in guessed}) > 3
        monkeypatch.setattr(BlockHead, "_sure", listening)
        plain = write(bare, sampling, 5)
        assert text(guessed) == text(plain) == text(write(bare, sampling))
        sampler = loaded.samplers.sampler(sampling, sampling.seed or 0, prompt_len=len(PROMPT))
        written = [*PROMPT, guessed[0].tokens[0]]
        for row, guess in zip(seen, guessed[0].guesses, strict=False):
            linked = row + kept["markov_w2.weight"] @ kept["markov_w1.weight"][written[-1]]
            assert sampler.pick(linked, written) == guess
            written.append(guess)
    finally:
        loaded.close()
        bare.close()


@pytest.mark.parametrize("field", ["attention.output_group_count", "attention.sliding_window"])
def test_layers_as_those_of_deepseek_that_tell_too_little(field: str, tmp_path: Path) -> None:
    one = deepseek()
    path = recipe("deepseek4").write(tmp_path / "model.gguf")
    head = replace(one, fields=one.fields | {field: ("UINT32", 0)}).write(tmp_path / "head.gguf")
    loaded = load(path, head)
    assert f"has layers as those of DeepSeek V4, but does not tell their {field}" in loaded.facts.note
    loaded.close()


@pytest.mark.parametrize(
    ("name", "one"),
    [
        pytest.param("minimax-01", dspark(), id="minimax-01-DSpark"),
        pytest.param("muse-glimmer", recipe("eagle3"), id="muse-glimmer-EAGLE-3"),
        pytest.param("minimax-01", recipe("eagle3"), marks=pytest.mark.thorough, id="minimax-01-EAGLE-3"),
        pytest.param("muse-glimmer", dspark(), marks=pytest.mark.thorough, id="muse-glimmer-DSpark"),
    ],
)
def test_architectures_that_give_out_layer_inputs_in_one_process(name: str, one: Recipe, tmp_path: Path) -> None:
    path = recipe(name).write(tmp_path / "model.gguf")
    headed, plain = load(path, one.write(tmp_path / "head.gguf", change=strong)), load(path)
    try:
        for sampling in SAMPLINGS:
            guessed = write(headed, sampling, 3)
            assert all(len(one.guesses) == 3 for one in guessed)
            assert text(guessed) == text(write(plain, sampling))
    finally:
        headed.close()
        plain.close()


SIZE = ("UINT32", 33)


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("DSpark", {"block_size": SIZE}, "a block of 33 tokens; those of DSpark heads may have 32"),
        ("DFlash 2", {"block_size": SIZE}, "a block of 33 tokens; those of DFlash 2 heads may have 32"),
        ("DSpark", {"block_size": None}, "does not tell the size of its blocks, which a DSpark head must"),
        ("DFlash 2", {"selector_top_k": None}, "does not tell how many candidates each of its places has"),
        ("DFlash 2", {"selector_top_k": ("UINT32", 30)}, "hidden size is too small for the selector lattice"),
        ("DSpark", {"tokenizer.ggml.mask_token_id": ("UINT32", 96)}, "names no mask token of this model"),
        ("DSpark", {"target_layers": ("INT32", [1, 4, 8])}, "it reads layers [1, 4, 8], and this one has 8"),
    ],
)
def test_fields_that_do_not_fit(kind: str, fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    one = KINDS[kind]
    known = {name: value for name, value in (one.fields | fields).items() if value is not None}
    assert reason in left_aside(replace(one, fields=known), tmp_path)


@pytest.mark.parametrize(
    ("kind", "tensors", "reason"),
    [
        ("DSpark", {"markov_w2.weight": None}, "tensor 'markov_w2.weight' not found"),
        ("DSpark", {"markov_w1.weight": (40, 8)}, "is a head of another model: that knows 40 tokens, this one 96"),
        ("of few words", {"output.weight": None}, "a table of tokens (`d2t`) that fits no output matrix"),
        ("DFlash 2", {"selector_successor.weight": None}, "tensor 'selector_successor.weight' not found"),
    ],
)
def test_tensors_that_do_not_fit(kind: str, tensors: dict[str, Any], reason: str, tmp_path: Path) -> None:
    one = KINDS[kind]
    known = {name: shape for name, shape in (one.tensors | tensors).items() if shape is not None}
    assert reason in left_aside(replace(one, tensors=known), tmp_path)


def test_a_table_with_tokens_of_another_model(tmp_path: Path) -> None:
    def far(name: str, values: Weights) -> Any:
        return strong(name, values) + 30 if name == "d2t" else values

    def broken(name: str, values: Weights) -> Weights:
        return values

    one = KINDS["of few words"]
    assert "it guesses tokens that this one does not have" in left_aside(one, tmp_path, far)
    assert "a table of tokens (`d2t`) that fits no output matrix" in left_aside(one, tmp_path, broken)


def left_aside(head: Recipe, folder: Path, change: Change = strong) -> str:
    """What is told of a head that does not fit. The model is served without it."""
    path = recipe("llama").write(folder / "model.gguf")
    loaded = load(path, head.write(folder / "head.gguf", change=change))
    try:
        assert loaded.target.head is None
        assert len(text(write(loaded, Sampling(), 3))) == COUNT
        return loaded.facts.note
    finally:
        loaded.close()
