"""What tests of heads share: what a head read of each position, and the tensors of a file."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.engine.slices.recipes import Weights
from twd.engine.context import Logits
from twd.engine.heads.block import BlockHead
from twd.engine.heads.shared import SharedHead


def heard(kind: type[BlockHead] | type[SharedHead], monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """What heads of this kind read of each position, from now on."""
    seen: list[Weights] = []
    read = kind.read

    def listening(self: BlockHead | SharedHead, slot: int, at: int, tokens: Sequence[int], rows: Logits) -> None:
        seen[at:] = np.array(rows[: len(tokens)], np.float64)
        read(self, slot, at, tokens, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "read", listening)
    return seen


def tensors_of(path: Path) -> dict[str, Weights]:
    """The tensors of a file of floats."""
    return {one.name: np.array(one.data) for one in gguf.GGUFReader(path).tensors}
