"""The stored texts as rows of one length for the training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Small = npt.NDArray[np.int32]
Batch = dict[str, npt.NDArray[np.generic]]
_OPEN: Final = 16
_FIELDS: Final = ("tokens", "rows", "likeliest")


@dataclass(frozen=True)
class Texts:
    """All stored texts, one after the other. `ends` are the places behind each."""

    tokens: npt.NDArray[np.int32]
    likeliest: npt.NDArray[np.int32]
    rows: npt.NDArray[np.float16]
    ends: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int32]

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """For each text its first place, the place behind its last, and the length of its prompt."""
        return list(zip([0, *self.ends[:-1]], self.ends, self.prompts, strict=True))


def read_texts(folder: Path) -> Texts:
    """The texts of a folder."""
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    for path in sorted(folder.glob("texts-*.npz")):
        with np.load(path) as found:
            parts.append(dict(found))
    if not parts:
        raise SystemExit(f"{folder} holds no texts; write some: python contrib/heads texts MODEL --out {folder}")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in (*_FIELDS, "lengths", "prompts")}
    ends = np.cumsum(joined["lengths"], dtype=np.int64)
    return Texts(joined["tokens"], joined["likeliest"], joined["rows"], ends, joined["prompts"])


def packed(lengths: Sequence[int], room: int, dice: np.random.Generator) -> Iterator[list[int]]:
    """Groups of texts that fill rows of `room` tokens, by chance. Those that are too long are left out."""
    bins: list[tuple[int, list[int]]] = []
    for text in dice.permutation(len(lengths)):
        length = lengths[text]
        if length > room:
            continue
        place = next((at for at, (used, _) in enumerate(bins) if used + length <= room), None)
        if place is None:
            if len(bins) == _OPEN:
                yield bins.pop(max(range(_OPEN), key=lambda at: bins[at][0]))[1]
            bins.append((length, [int(text)]))
        else:
            used, texts = bins[place]
            bins[place] = (used + length, [*texts, int(text)])
    yield from (texts for _, texts in bins)


def batch(texts: Texts, groups: Sequence[Sequence[int]], room: int, embedding: Floats, small: Small) -> Batch:
    """What the head reads and what it should tell, for each place of some rows.

    `small`: the place of each token in the draft vocabulary, -1 if it is not there.
    """
    width = embedding.shape[1]
    found = {
        "tokens": np.zeros((len(groups), room, width), np.float32),
        "inputs": np.zeros((len(groups), room, texts.rows.shape[1] - width), texts.rows.dtype),
        "last": np.zeros((len(groups), room, width), texts.rows.dtype),
        "answers": np.full((len(groups), room), -1, np.int32),
        "texts": np.full((len(groups), room), -1, np.int32),
        "places": np.zeros((len(groups), room), np.float32),
    } | {name: np.zeros((len(groups), room), np.float32) for name in ("counted", "known")}
    for row, group in enumerate(groups):
        at = 0
        for number in group:
            at = _fill(found, row, at, number, texts, embedding, small)
    return found


def _fill(found: Batch, row: int, at: int, number: int, texts: Texts, embedding: Floats, small: Small) -> int:
    begin, end, prompt = texts.spans[number]
    count = int(end - begin) - 1  # the last token has none behind it
    here = (row, slice(at, at + count))
    width = embedding.shape[1]
    found["tokens"][here] = embedding[texts.tokens[begin + 1 : end]]
    found["inputs"][here] = texts.rows[begin : end - 1, :-width]
    found["last"][here] = texts.rows[begin + 1 : end, -width:]
    answers = small[texts.likeliest[begin + 1 : end]]
    found["answers"][here], found["known"][here] = answers, answers >= 0
    found["texts"][here] = number
    found["places"][here] = np.arange(count)
    first = min(max(int(prompt) - 2, 0), count)
    found["counted"][row, at + first : at + count] = 1.0
    return at + count
