"""Which passed answers the target writes, too. Pure; what that tells is in `twd.drafting.betting`."""


def due(passed: int, share: float, first: int, chance: float) -> bool:
    """Whether the answer that passed as number `passed` is audited: the first ones all, then a share of them."""
    return share > 0.0 and (passed <= first or chance < share)
