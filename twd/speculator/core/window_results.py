"""What the result of a window changes: which of its tokens become text, and whether later windows are still right."""

from msgspec.structs import replace

from twd.decoding.window import VerifyResult
from twd.speculator.core.consensus import CONSENSUS, Consensus
from twd.speculator.core.draft_tree import DraftNode
from twd.speculator.core.drafted_experts import DraftedExperts
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.outgoing import Outgoing
from twd.speculator.core.output_coalescing import add
from twd.speculator.core.session import HEAD, NGRAM, InFlightWindow, Session
from twd.speculator.core.session_ends import SessionEnds
from twd.speculator.core.session_table import SessionTable
from twd.speculator.core.telling import take_scores
from twd.speculator.drafters.pool import DrafterPool
from twd.wire.job import FinishReason
from twd.wire.judging import ModeClosed, TokensAgreed


class WindowResults:
    """Takes the results of windows, and the tokens on which drafters agreed between them."""

    def __init__(
        self,
        identity: SpeculatorIdentity,
        limits: SpeculatorLimits,
        table: SessionTable,
        ends: SessionEnds,
        out: Outgoing,
        drafter_pool: DrafterPool,
        consensus: Consensus,
        drafted: DraftedExperts | None,
    ) -> None:
        self._identity = identity
        self._limits = limits
        self._table = table
        self._ends = ends
        self._out = out
        self._drafter_pool = drafter_pool
        self._consensus = consensus
        self._drafted = drafted

    def take(self, verdict: VerifyResult, now: float) -> None:
        """Take the result of one window; of an old epoch or of a session that ended it changes nothing."""
        session = self._table.running.get(verdict.slot)
        if session is None or verdict.epoch != session.epoch or not session.inflight_windows:
            return
        window = session.inflight_windows.popleft()
        if verdict.failure is not None:
            self._ends.fail(session, verdict.failure, now)
        elif session.judged is not None:
            self._take_given(session, window, verdict, now)
        elif window.picks:
            self._take_picked(session, window, verdict, now)

    # -- a given answer that is scored -----------------------------------------------------------

    def _take_given(self, session: Session, window: InFlightWindow, verdict: VerifyResult, now: float) -> None:
        if window.picks:
            self._score(session, verdict, now)
        elif session.scored:
            self._ends.finish(session, FinishReason.STOP, now)

    def _score(self, session: Session, verdict: VerifyResult, now: float) -> None:
        """Record the scores of some tokens of a given answer. The same pass may also have read the end of the
        prompt."""
        piece, end = take_scores(session, verdict, now, self._limits.ctx_size)
        self._table.void(session)  # the last token is computed again with the next ones
        if piece is not None:
            self._out.say(session, now)
            add(session.unsaid, piece)
        if end is not None:
            self._ends.finish(session, end, now)

    # -- tokens that the target picked -------------------------------------------------------------

    def _take_picked(self, session: Session, window: InFlightWindow, verdict: VerifyResult, now: float) -> None:
        session.replay = verdict.replay
        agreed = session.unread
        if agreed:
            self._read(session, verdict)
        if session.ending is not None:
            self._ends.finish(session, session.ending, now)
            return
        held = min(len(verdict.tokens) - 1, len(window.nodes))
        guessed = [_author(session, node) for node in window.nodes]
        if session.first_at < 0:
            session.first_at = now
        place = (len(session.tokens), session.generated)
        kept, shown, end = session.take(verdict.tokens)
        taken = min(held, len(kept))  # drafts behind the end became no text
        _count(session, window, verdict, guessed, held, taken)
        session.fed = len(session.tokens) - 1
        self._measure(session, place, guessed, taken, agreed + len(kept), now)
        checked_ahead, follows = self._check_next(session, verdict, whole=held >= len(window.nodes))
        if len(session.tokens) >= self._limits.ctx_size and end is None:
            end = session.cut()
        if end is None:
            session.hang(HEAD, verdict.guesses, verdict.sure)
            self._out.tell_all(self._drafter_pool.grant(session, now))
        accepted = session.accepted(*place, kept, shown, verdict.logprobs[: len(kept)])
        checked, drafter = len(window.nodes) + checked_ahead, guessed[0] if taken else ""
        self._out.speak(session, replace(accepted, checked=checked, taken=taken + follows, drafter=drafter), now)
        if end is not None:
            self._ends.finish(session, end, now)
        else:
            self._take_vote(session, now)

    def _measure(
        self, session: Session, place: tuple[int, int], guessed: list[str], taken: int, made: int, now: float
    ) -> None:
        """Learn from a window. `place`: how many tokens and how many generated ones there were before it; `made`: how
        many came by it."""
        if self._drafted is not None and session.speculates:
            self._drafted.learn(session.beginnings(place[0], taken))
        if place[1]:
            self._drafter_pool.measure(session, made, (now - session.passed_at) * 1000, guessed)
        session.accepted_at = session.passed_at = now

    def _check_next(self, session: Session, verdict: VerifyResult, *, whole: bool) -> tuple[bool, bool]:
        """Void the windows in flight if a draft was wrong. `whole`: all drafts of this window were right; then its last
        token verifies the first draft of the next window. Returns whether there was such a draft, and whether it was
        right."""
        ahead = _first_of_next(session) if whole else None
        follows = ahead is not None and ahead.token == verdict.tokens[-1]
        if ahead is not None:
            session.spec_stats.count([_author(session, ahead)], int(follows))
        if not whole or (session.inflight_windows and not follows):
            self._table.void(session)
        return ahead is not None, follows

    # -- tokens on which drafters agreed -----------------------------------------------------------

    def _read(self, session: Session, verdict: VerifyResult) -> None:
        """The target has read the tokens on which drafters agreed. Only the tokens behind them are new."""
        unread = session.unread
        closed = self._consensus.read(session, [one.gap for one in verdict.scores])
        if closed:
            self._out.tell(ModeClosed(model=self._identity.model, mode="consensus", why=closed))
        session.fed = len(session.tokens) - 1
        del verdict.tokens[:unread]

    def _take_vote(self, session: Session, now: float) -> None:
        """Take the agreement that came while a window was in flight, if there is one."""
        vote, session.vote = session.vote, None
        if vote is not None and not session.inflight_windows and self._consensus.applies(session):
            self.take_agreed(session, vote, now)

    def take_agreed(self, session: Session, event: TokensAgreed, now: float) -> None:
        """Take tokens on which drafters agree as text, as far as they fit. No window may be in flight."""
        tokens = self._consensus.fitting(session, event, self._identity.vocab.tokens)
        if not tokens:
            return
        place = (len(session.tokens), session.generated)
        kept, shown, end = session.take(tokens)
        session.unread += len(kept)
        session.agreed += len(kept)
        session.accepted_at = now
        if end is None:
            self._out.tell_all(self._drafter_pool.grant(session, now))
        accepted = session.accepted(*place, kept, shown)
        self._out.speak(session, replace(accepted, taken=len(kept), drafter=CONSENSUS), now)
        if end is not None and self._consensus.reads_end(session):
            session.ending = end
        elif end is not None:
            self._ends.finish(session, end, now)


def _author(session: Session, node: DraftNode) -> str:
    return node.best_vote(session.beliefs.chance)[0] if node.votes else NGRAM


def _count(
    session: Session, window: InFlightWindow, verdict: VerifyResult, guessed: list[str], held: int, taken: int
) -> None:
    """Count the drafts of a window. `guessed`: who drafted each; `held`: how many were right; `taken`: how many of them
    became text."""
    session.spec_stats.passes += len(verdict.tokens) - 1 - held  # several steps in one call
    judged = guessed[: held + 1] if window.parents is None else [guessed[i - 1] for i in verdict.path[1:]]
    session.spec_stats.count(judged if taken == held else judged[:taken], taken)


def _first_of_next(session: Session) -> DraftNode | None:
    """Remove and return the first draft of the next window in flight; None: it has no draft at this place."""
    if not session.inflight_windows:
        return None
    following = session.inflight_windows[0]
    if following.at != len(session.tokens) - 1:
        return None
    first, following.nodes = following.nodes[0], following.nodes[1:]
    return first
