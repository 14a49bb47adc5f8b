"""Which passed answers are audited. Pure; the statistics of audits are in `twd.drafting.betting`."""


def due(passed: int, share: float, first: int, chance: float) -> bool:
    """Whether the passed answer number `passed` is audited: all of the first ones, then a random share."""
    return share > 0.0 and (passed <= first or chance < share)
