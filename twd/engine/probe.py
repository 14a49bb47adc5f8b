"""Finds out by trying, not by the architecture's name, whether a model can roll back."""

from twd.engine.context import BatchTokens, Context


def can_rollback(context: Context) -> bool:
    """Decode two tokens, remove one and check the result. The first sequence must be empty; it is emptied afterwards.

    Recurrent and hybrid models have a recurrent state instead of KV cells: they refuse, or would keep the token.
    """
    rows = BatchTokens()
    rows.add(0, 0, [0, 0], output_from=2)
    context.decode(rows)
    possible = context.rollback(0, 1) and context.end(0) == 1
    context.clear(0)
    return possible
