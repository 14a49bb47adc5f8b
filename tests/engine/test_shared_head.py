"""Gemma 4's assistant reads the target's own KV cells: its guesses are those of a computation with numpy, and change no
word."""

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.head_inputs import heard
from tests.engine.shared_reference import SharedReference, assistant, attentive
from tests.engine.slices.recipes import Weights, recipe
from tests.engine.test_eagle_head import load
from tests.engine.test_own_head import COUNT, PROMPT, SAMPLINGS, text, write
from twd.decoding.window import Window
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.heads.binding import give_layer_inputs, layer_inputs
from twd.engine.heads.shared import SharedHead
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.wire.job import Sampling

CLEAR = 0.1
"""So much larger is the logit of a guess that is clear."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> SharedReference:
    folder = tmp_path_factory.mktemp("shared")
    path = recipe("gemma4").write(folder / "model.gguf", change=attentive)
    return SharedReference(assistant().write(folder / "head.gguf", change=attentive), path)


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """What heads read of each position."""
    return heard(SharedHead, monkeypatch)


def inputs_of(path: Path, tokens: Sequence[int]) -> dict[int, Weights]:
    """What goes into the last two layers of a model, for each token."""
    with LoadedGguf.load(ModelLoadOptions(path)) as model:
        context = Context(model, ContextSettings(ctx_size=512, threads=1, ubatch=256))
        layers = (model.n_layer - 2, model.n_layer - 1)
        for layer in layers:
            give_layer_inputs(context.handle, layer)
        rows = BatchTokens()
        rows.add(0, 0, tokens)
        context.decode(rows)
        row = ctypes.c_float * (model.n_embd * len(tokens))
        found: dict[int, Weights] = {at: np.array(row.from_address(layer_inputs(context.handle, at))) for at in layers}
        context.close()
        return {at: values.reshape(len(tokens), -1) for at, values in found.items()}


def test_it_guesses_what_the_formulas_say(reference: SharedReference, states: list[Weights]) -> None:
    """As far as a guess is clear: the target keeps its cells with fewer bits."""
    loaded = load(reference.target, reference.path)
    try:
        guessed = write(loaded, Sampling(), 3)
    finally:
        loaded.close()
    tokens, compared = list(PROMPT), list[int]()
    inputs = inputs_of(reference.target, [*PROMPT, *text(guessed)])
    for verdict in guessed[:-1]:
        tokens += verdict.tokens
        end = len(tokens) - 1
        read = {layer: rows[:end] for layer, rows in inputs.items()}
        wanted = reference.guess(read, states[end - 1], tokens, 3)
        for token, sure, one in zip(verdict.guesses, verdict.sure, wanted, strict=True):
            if one.lead < CLEAR:
                break
            assert token == one.token
            assert sure == pytest.approx(one.share, abs=0.03)
            compared.append(token)
    assert len(compared) > 2 * COUNT
    assert len(set(compared)) > 5


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_its_guesses_change_no_word(sampling: Sampling, reference: SharedReference) -> None:
    headed, plain = load(reference.target, reference.path), load(reference.target)
    try:
        truth = text(write(plain, sampling))
        for asked in (3, 1, 8):
            guessed = write(headed, sampling, asked)
            assert all(len(one.guesses) == len(one.sure) == asked for one in guessed)
            assert text(guessed) == truth
        assert "the head head.gguf guesses, " in headed.facts.note
    finally:
        headed.close()
        plain.close()


def test_several_sessions_read_cells_of_their_own(reference: SharedReference) -> None:
    prompts = [PROMPT[shift:] + PROMPT[:shift] for shift in (0, 5, 11)]
    alone, together = (load(reference.target, reference.path, parallel=count) for count in (1, 3))
    try:
        truth = [write(alone, Sampling(), 3, prompt)[0].guesses for prompt in prompts]
        sampler = together.samplers.sampler(Sampling(), 0, prompt_len=1)
        slots = [together.target.open(prompt, sampler)[0] for prompt in prompts]
        for slot, prompt in zip(slots, prompts, strict=True):
            together.target.submit([Window(slot, 0, 0, tuple(prompt), committed=len(prompt), guesses=3)])
        found = {one.slot: one.guesses for one in together.target.collect()}
        assert [found[slot] for slot in slots] == truth
        assert len({tuple(guesses) for guesses in truth}) == 3
    finally:
        alone.close()
        together.close()


def test_a_text_that_goes_on_is_read_as_at_once(reference: SharedReference) -> None:
    loaded, fresh = load(reference.target, reference.path), load(reference.target, reference.path)
    try:
        longer = [*PROMPT, *PROMPT[:30]]
        write(loaded, Sampling(), 3)
        assert write(loaded, Sampling(), 3, longer)[0].guesses == write(fresh, Sampling(), 3, longer)[0].guesses
    finally:
        loaded.close()
        fresh.close()


WINDOWS = "attention.sliding_window_pattern"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"embedding_length_out": ("UINT32", 128)}, "a head of another model: that has a width of 128, this one of 64"),
        ({"nextn_predict_layers": ("UINT32", 2)}, "does not tell of each of its layers what it reads"),
        ({"nextn_predict_layers": ("UINT32", 9)}, "does not tell of each of its layers what it reads"),
        ({WINDOWS: ("BOOL", [True])}, "does not tell of each of its layers what it reads"),
        ({"attention.key_length": ("UINT32", 32)}, "its layer 2 reads cells of another size than layer 7 has"),
        ({"attention.head_count_kv": ("UINT32", 2)}, "its layer 0 reads cells of another size than layer 6 has"),
    ],
)
def test_one_that_does_not_fit_is_left_aside(
    fields: dict[str, tuple[str, Any]], reason: str, reference: SharedReference, tmp_path: Path
) -> None:
    one = assistant()
    note = left_aside(reference.target, replace(one, fields=one.fields | fields).write(tmp_path / "head.gguf"))
    assert reason in note


def test_models_of_another_kind_are_served_without(reference: SharedReference, tmp_path: Path) -> None:
    llama = recipe("llama").write(tmp_path / "llama.gguf")
    assert "guesses for gemma4 models, and this one is of architecture llama" in left_aside(llama, reference.path)
    one = recipe("gemma4")
    pattern = ("BOOL", [True, False, True, True, True, False, False, True])
    other = replace(one, fields=one.fields | {WINDOWS: pattern}, tensors=swapped(one.tensors))
    note = left_aside(other.write(tmp_path / "other.gguf"), reference.path)
    assert "its layer 0 reads the cells of layer 6, which are of another kind" in note


def swapped(tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of layers in another order: those without a sliding window are 1, 5 and 6."""
    places = {1: 3, 3: 0, 5: 7, 6: 7, 7: 0}
    found = dict(tensors)
    for layer, like in places.items():
        for name, shape in tensors.items():
            if name.startswith(f"blk.{like}."):
                found[name.replace(f"blk.{like}.", f"blk.{layer}.")] = shape
    return found


def test_a_truncated_one_is_left_aside(reference: SharedReference, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(reference.path.read_bytes()[:-4096])
    assert "without a head: " in left_aside(reference.target, cut)


def left_aside(path: Path, head: Path) -> str:
    """What is told of a head that does not fit. The model is served without it."""
    loaded = load(path, head)
    try:
        assert loaded.target.head is None
        assert len(text(write(loaded, Sampling(), 3))) == COUNT
        return loaded.facts.note
    finally:
        loaded.close()
