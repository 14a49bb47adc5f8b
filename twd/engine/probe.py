"""What a model can take back: found out by trying, not by its name."""

from twd.engine.context import BatchTokens, Context


def can_rollback(context: Context) -> bool:
    """Decode two tokens, take one back and see; the first sequence must be free, and is again afterwards.

    Recurrent and hybrid models keep a running state instead of cells: they refuse, or would keep the token.
    """
    rows = BatchTokens()
    rows.add(0, 0, [0, 0], output_from=2)
    context.decode(rows)
    possible = context.rollback(0, 1) and context.end(0) == 1
    context.clear(0)
    return possible
