"""A slice refuses a batch that llama.cpp would split."""

import pytest

from twd.engine.context import BatchTokens
from twd.engine.slices.blocks import require_block
from twd.wire.failures import TwdError


def batch(*sequences: int) -> BatchTokens:
    rows = BatchTokens()
    for sequence in sequences:
        rows.add(sequence, 0, [1])
    return rows


@pytest.mark.parametrize("sequences", [(0,), (1, 1), (1, 2), (0, 0, 1, 1)])
def test_neighbouring_slots_with_equal_rows_are_taken(sequences: tuple[int, ...]) -> None:
    require_block(batch(*sequences), 3, 4)


@pytest.mark.parametrize("sequences", [(), (0, 2), (1, 0), (0, 1, 0), (0, 0, 1), (3,), (0, 0, 0, 0, 0)])
def test_others_are_refused(sequences: tuple[int, ...]) -> None:
    with pytest.raises(TwdError, match="equally many"):
        require_block(batch(*sequences), 3, 4)
