"""What is said of a mixture before it is loaded."""

from pathlib import Path

import pytest

from tests.moe.mixtures import write_random
from twd.moe.advice import advice_for

ROOM = 1 << 40


def test_a_fused_mixture_that_fits_needs_no_words(tmp_path: Path) -> None:
    assert advice_for(write_random(tmp_path / "m.gguf"), ROOM) == []


def test_a_dense_file_and_none_need_no_words(tiny_path: Path, tmp_path: Path) -> None:
    assert advice_for(tiny_path, 0) == []
    assert advice_for(tmp_path / "none.gguf", 0) == []


def test_single_experts_must_be_fused(tmp_path: Path) -> None:
    (found,) = advice_for(write_random(tmp_path / "m.gguf", layout="indexed"), ROOM)
    assert found.text == "its 4 experts have tensors of their own, and llama.cpp loads only fused ones"
    assert found.command == f"twd moe fuse {tmp_path / 'm.gguf'} {tmp_path / 'm-fused.gguf'}"


@pytest.mark.parametrize(
    ("free", "words", "command"),
    [(0, "a token needs", "twd moe summary"), (1 << 21, "memory holds", "twd moe plan")],
)
def test_too_little_memory_is_said_in_numbers(free: int, words: str, command: str, tmp_path: Path) -> None:
    path = write_random(tmp_path / "m.gguf", inner=2048)
    (found,) = advice_for(path, free)
    assert words in found.text
    assert "dense" in found.text
    assert found.command == f"{command} {path}"
