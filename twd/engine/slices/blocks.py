"""Which batches a slice can compute: the same number of rows for each of some neighbouring slots."""

from twd.engine.context import BatchTokens
from twd.wire.failures import FailureCode, TwdError


def require_block(rows: BatchTokens, slots: int, most: int) -> None:
    """Raise TwdError unless the batch has neighbouring slots with equal n_tokens, in order. Otherwise llama.cpp splits
    the batch and returns the states in another order."""
    order: list[int] = []
    counts: dict[int, int] = {}
    for slot in rows.sequences:
        if slot not in counts:
            order.append(slot)
        elif order[-1] != slot:
            order = []
            break
        counts[slot] = counts.get(slot, 0) + 1
    even = order and order == list(range(order[0], order[0] + len(order))) and len(set(counts.values())) == 1
    if not even or order[0] < 0 or order[-1] >= slots or len(rows) > most or rows.shared:
        raise TwdError(
            FailureCode.BAD_REQUEST,
            f"a pass takes 1 to {most} rows, equally many for each of some neighbouring slots below {slots}",
        )
