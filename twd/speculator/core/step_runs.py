"""How many tokens of texts without drafts are made in one call of the target."""

from collections.abc import Collection
from typing import Final

from twd.drafting.window_value import Cost
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import Session

MOST_MS: Final = 50.0
"""The longest call: other sessions, cancelled jobs and drafts wait for its end if nothing ends it earlier."""
AMONG_DRAFTS: Final = 4
"""Most tokens of one call where each token may show that the text is one that was expected, or an earlier answer."""


def longest_call_ms(stream_ms: float) -> float:
    """Returns how long a call may be where pieces of a text within `stream_ms` are sent together: two calls fit."""
    return min(MOST_MS, stream_ms / 2)


def steps_together(sessions: Collection[Session], cost: Cost, limits: SpeculatorLimits) -> int:
    """Returns how many tokens each of these sessions may get in one call, if they have the target for themselves."""
    if not limits.steps_ms or not sessions or not all(_is_plain(session, limits) for session in sessions):
        return 1
    steps = int(limits.steps_ms / max(cost(len(sessions)), 1e-3))
    return max(1, min(steps, *(_room(session, limits) for session in sessions)))


def repeats_that_matter(session: Session, limits: SpeculatorLimits) -> int:
    """Returns how many last tokens must stand earlier in the text to end a call, because a copy could follow; 0: none
    matter, or the target did not find the copy worth a try just now."""
    searched = session.speculates and limits.ngram and limits.can_rollback and limits.max_window > 0
    return limits.ngram_match if searched and not session.ngram.propose(1)[0] else 0


def _is_plain(session: Session, limits: SpeculatorLimits) -> bool:
    """Returns whether nobody needs to look at each token of this text before the next one is computed."""
    looked_at = session.stops or session.grammar or session.report or session.judged is not None or session.ahead
    votes = limits.consensus and session.job.speculation.consensus
    guessed = limits.head_ms or session.drafted or session.job.speculation.window
    return session.first_at >= 0 and not (looked_at or votes or (session.speculates and guessed))


def _room(session: Session, limits: SpeculatorLimits) -> int:
    room = min(session.remaining, limits.ctx_size - len(session.tokens))
    expected = len(session.prediction) > 0 or (session.recalls and limits.recall_tokens > 0)
    return min(room, AMONG_DRAFTS) if expected else room
