"""How many tokens the target's own head should guess behind a window: by their worth so far, and their cost."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from twd.drafting.window_value import Cost
from twd.speculator.core.draft_tree import DraftNode
from twd.speculator.core.session import HEAD, OWN, Session
from twd.speculator.core.window_size import draft_price, useful_credit

_TRY_AGAIN: Final = 256
"""After so many passes, a head that does not pay guesses one token again."""
_AT_BEST: Final = 0.9
"""The chance of a guess where the head is at its surest: so far it may guess, if it stays sure."""
_CAREFUL: Final = 0.7
"""A head is right a little more often than it is sure: the target takes the likeliest token every time."""


class HeadOrder(NamedTuple):
    """The most guesses that are wanted. They end earlier when the chance that all of them hold falls below `least`."""

    guesses: int = 0
    least: float = 0.0


def guesses_wanted(session: Session, nodes: Sequence[DraftNode], cost: Cost, head_ms: float, limit: int) -> HeadOrder:
    """Returns how many tokens the head should guess behind a window with these drafts; 0: it does not pay.

    Its guesses are made on the target's cores before the next pass. Drafts that cost nothing are better where they
    hold.
    """
    room = min(limit, session.remaining - len(nodes) - 2)
    if not head_ms or not session.speculates or room <= 0:
        return HeadOrder()
    chance = session.beliefs.hoped(HEAD)
    if nodes and _free(session, nodes[0]) >= chance:
        return HeadOrder()
    paying = useful_credit(cost, chance, head_ms, 0.0, beside=True, window=room)
    if not paying:
        return HeadOrder(int(session.spec_stats.passes % _TRY_AGAIN == _TRY_AGAIN - 1))
    most = useful_credit(cost, max(chance, _AT_BEST), head_ms, 0.0, beside=True, window=room)
    return HeadOrder(max(paying, most), _CAREFUL * draft_price(cost, chance, head_ms, 0.0, room))


def _free(session: Session, node: DraftNode) -> float:
    """The chance of the best vote of a source that costs nothing."""
    votes = ((name, sure) for name, sure in node.votes.items() if name in OWN and name != HEAD)
    return max((session.beliefs.chance(name, sure) for name, sure in votes), default=0.0)
