"""Tokens on which drafters agreed: which of them may stand unread, how long to wait for them, how often they were
wrong.

There is no clock here: time comes in as an argument.
"""

from dataclasses import dataclass, field
from hashlib import sha256

from twd.drafting.betting import Audit
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import Session
from twd.wire.base import InstanceId
from twd.wire.job import AnswerVerdict, Judged
from twd.wire.judging import TokensAgreed

CONSENSUS = InstanceId("consensus")
"""The name under which tokens are reported on which drafters agreed."""
PATIENCE_PASSES = 1.5
"""Agreement is awaited for as long as this many plain steps of the target take."""
LONGEST_PASSES = 4.0
"""Slow drafters are awaited for as long as this many plain steps; where the job wants windows of a fixed size, and so
waits for drafts in any case, as long as they need."""
SLACK = 1.5
"""Votes may take this many times as long as expected."""
COUNTING_S = 0.02
"""When all drafters have voted, the count is awaited for so many seconds."""
MISSES = 3
"""After this many waits in a row without agreement, the session waits no more."""


@dataclass
class Consensus:
    """The rules and counters of agreement for all sessions of one target."""

    limits: SpeculatorLimits
    audit: Audit = field(init=False)
    heard: bool = False
    """Whether any agreement was ever received."""
    accepted: int = 0
    """Tokens on which drafters agreed, in texts that ended."""
    fallback: int = 0
    """Tokens that the target decided, in the same texts."""
    refused: int = 0
    """Agreements that did not fit the text, or that no job asked for."""

    def __post_init__(self) -> None:
        self.audit = Audit(self.limits.max_error)

    def applies(self, session: Session) -> bool:
        """Returns whether agreed tokens may stand unread. Not in an answer that the client reads only when it is
        complete: it stays exact."""
        return self.wanted(session) and not session.job.whole

    def wanted(self, session: Session) -> bool:
        """Returns whether drafters vote on this session."""
        asks = session.job.speculation.consensus and session.speculates and session.grammar is None
        return bool(self.limits.consensus) and asks and session.report is None and not self.audit.broken

    def fitting(self, session: Session, event: TokensAgreed, vocabulary: int) -> list[int]:
        """Returns the agreed tokens that come next; none if they contradict the text or too few drafters agree."""
        if session.ending is not None:
            return []
        known = session.place(event.at, event.prefix, event.tokens)
        if known is None or event.at > len(session.tokens) or not self._enough(event):
            self.refused += 1
            return []
        tokens = event.tokens[known:]
        bad = (place for place, one in enumerate(tokens) if one >= vocabulary or one in session.end_tokens)
        tokens = tokens[: next(bad, len(tokens))]
        room = min(self.limits.unread - session.unread, self.limits.ctx_size - len(session.tokens) - 1)
        return tokens[: max(0, room)]

    def _enough(self, event: TokensAgreed) -> bool:
        if event.votes < 2 or event.votes > event.asked:
            return False
        return 2 * event.votes > event.asked if self.limits.consensus == "majority" else event.votes == event.asked

    def awaited(self, session: Session) -> bool:
        """Returns whether agreement on the next tokens is likely enough to wait for it."""
        if not self.heard or not self.applies(session) or session.unread >= self.limits.unread:
            return False
        at_work = sum(link.credit > 0 for link in session.links.values())
        return session.misses < MISSES and at_work >= 2

    def wait_until(
        self, session: Session, step_ms: float, vote_ms: float, voted_at: float | None = None
    ) -> float | None:
        """Returns until when to wait for agreement before a pass; None: do not wait. `vote_ms`: how soon enough
        drafters vote on the next tokens; `voted_at`: when the last of them did."""
        if not self.awaited(session) or session.ending is not None:
            return None
        patience_ms = max(PATIENCE_PASSES * step_ms, SLACK * vote_ms)
        if not session.job.speculation.window:
            patience_ms = min(patience_ms, LONGEST_PASSES * step_ms)
        until = session.accepted_at + patience_ms / 1000
        return until if voted_at is None else min(until, voted_at + COUNTING_S)

    def waited(self, session: Session) -> None:
        """Record that a wait ended without agreement; each wait counts once."""
        session.misses += session.missed_at != session.accepted_at
        session.missed_at = session.accepted_at

    def reads_end(self, session: Session) -> bool:
        """Returns whether the target reads the last tokens, too, although the text is complete without that."""
        chance = int.from_bytes(sha256(session.id.encode()).digest()[:4]) / 2**32
        return bool(session.unread) and chance < self.limits.audit

    def read(self, session: Session, gaps: list[float]) -> str:
        """Record that the target has read all unread tokens. A gap above 0: it would have picked another token. Returns
        why drafters may agree no more, if that was found out now."""
        broken = self.audit.broken
        for gap in gaps:
            self.audit.learn(gap > 0.0)
        session.unlike += sum(gap > 0.0 for gap in gaps)
        session.unread = 0
        if broken or not self.audit.broken:
            return ""
        return (
            f"{self.audit.errors} of {self.audit.audits} agreed tokens were wrong: more than {self.audit.max_error:.1%}"
        )

    def judged(self, session: Session) -> Judged | None:
        """Returns how an answer was decided; None: the job did not ask for agreement."""
        if not session.job.speculation.consensus:
            return None
        self.accepted += session.agreed
        self.fallback += session.generated - session.agreed
        if not session.agreed:
            return Judged(verdict=AnswerVerdict.EXACT)
        return Judged(
            verdict=AnswerVerdict.UNJUDGED,
            approximate=bool(session.unlike or session.unread),
            member=CONSENSUS,
            kept=session.agreed,
            unlike=session.unlike,
            why=f"drafters agreed on {session.agreed} tokens; {session.unread} of them were never read",
        )
