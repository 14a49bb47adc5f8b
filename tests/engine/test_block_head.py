"""A trained head that guesses a block in one pass (DFlash), and is refused where it does not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.slices.recipes import Weights, recipe
from tests.engine.test_eagle_head import load
from tests.engine.test_own_head import write
from twd.wire.job import Sampling


def attentive(name: str, values: Weights) -> Weights:
    """Weights with which a guess depends on what a mask sees more than on the mask."""
    return 20 * values if name.endswith("attn_output.weight") else values


def test_what_it_guesses_depends_on_the_text(tmp_path: Path) -> None:
    path = recipe("llama").write(tmp_path / "model.gguf")
    head = recipe("dflash").write(tmp_path / "head.gguf", change=attentive)
    loaded = load(path, head)
    try:
        once, again = (write(loaded, Sampling(), 3) for _ in range(2))
        assert [one.guesses for one in once] == [one.guesses for one in again]
        assert len({tuple(one.guesses) for one in once}) > 3
    finally:
        loaded.close()


def test_it_reads_a_text_in_pieces_as_at_once(tmp_path: Path) -> None:
    path = recipe("llama").write(tmp_path / "model.gguf")
    loaded = load(path, recipe("dflash").write(tmp_path / "head.gguf"))
    try:
        tokens, first = [5, 9, 13] * 30, list[int]()
        for prompt in (tokens[:40], tokens):  # the second goes on in the cells of the first
            first = write(loaded, Sampling(), 4, prompt)[0].guesses
        fresh = load(path, tmp_path / "head.gguf")
        assert write(fresh, Sampling(), 4, tokens)[0].guesses == first
        fresh.close()
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"embedding_length": ("UINT32", 32)}, "a head of another model: that has a width of 32, this one of 64"),
        ({"target_layers": ("INT32", [1, 4, 8])}, "it reads layers [1, 4, 8], and this one has 8"),
        ({"tokenizer.ggml.mask_token_id": ("UINT32", 96)}, "names no mask token of this model"),
        ({"block_size": ("UINT32", 1)}, "tells of a block of 1 tokens"),
    ],
)
def test_one_that_does_not_fit_is_left_aside(fields: dict[str, tuple[str, Any]], reason: str, tmp_path: Path) -> None:
    path, one = recipe("llama").write(tmp_path / "model.gguf"), recipe("dflash")
    head = replace(one, fields=one.fields | fields).write(tmp_path / "head.gguf")
    loaded = load(path, head)
    try:
        assert loaded.target.head is None
        assert reason in loaded.facts.note
    finally:
        loaded.close()
