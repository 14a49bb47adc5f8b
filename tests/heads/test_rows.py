"""Texts become rows in which the head finds, at each place, the next token and what the target says after that."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contrib.heads.rows import Texts, batch, packed, read_texts
from contrib.heads.texts import Text, save

WIDTH = 4


def two_texts() -> list[Text]:
    made = []
    for tokens, prompt in (([5, 6, 7, 8, 9], 3), ([1, 2, 3], 1)):
        text = Text(tokens, prompt, 0.0, len(tokens))
        text.rows = [np.full(4 * WIDTH, token, np.float16) for token in tokens]
        text.likeliest = [token + 1 for token in tokens]
        made.append(text)
    return made


def stored(folder: Path) -> Texts:
    save(two_texts(), folder / "texts-0000.npz")
    return read_texts(folder)


def test_a_row_tells_the_token_after_the_next(tmp_path: Path) -> None:
    embedding = np.arange(12, dtype=np.float32)[:, None].repeat(WIDTH, axis=1)
    small = np.full(12, -1, np.int32)
    small[[8, 9, 10]] = [0, 1, 2]
    found = batch(stored(tmp_path), [[0, 1]], 10, embedding, small)
    assert found["inputs"][0, :6, 0].tolist() == [5, 6, 7, 8, 1, 2]
    assert found["tokens"][0, :6, 0].tolist() == [6, 7, 8, 9, 2, 3]
    assert found["last"][0, :6, 0].tolist() == [6, 7, 8, 9, 2, 3]
    assert found["answers"][0, :6].tolist() == [-1, 0, 1, 2, -1, -1]
    assert found["known"][0, :6].tolist() == [0, 1, 1, 1, 0, 0]
    assert found["counted"][0, :6].tolist() == [0, 1, 1, 1, 1, 1]
    assert found["texts"][0].tolist() == [0] * 4 + [1] * 2 + [-1] * 4
    assert found["places"][0, :6].tolist() == [0, 1, 2, 3, 0, 1]


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(0, 9))
def test_each_text_that_fits_comes_once_in_a_round(lengths: list[int], seed: int) -> None:
    room = 20
    groups = list(packed(lengths, room, np.random.default_rng(seed)))
    assert sorted(one for group in groups for one in group) == [
        number for number, length in enumerate(lengths) if length <= room
    ]
    assert all(sum(lengths[one] for one in group) <= room for group in groups)
