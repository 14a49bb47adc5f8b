"""The ends of sessions: a text is complete, or its job failed."""

from twd.drafting.history_ngram import HistoryNgram
from twd.speculator.core.consensus import Consensus
from twd.speculator.core.outgoing import Outgoing
from twd.speculator.core.session import Session
from twd.speculator.core.session_table import SessionTable
from twd.speculator.core.telling import failed, finished
from twd.speculator.drafters.pool import DrafterPool
from twd.wire.draft import SessionClosed
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import FinishReason


class SessionEnds:
    """Ends sessions, and publishes how each of them ended."""

    def __init__(
        self, table: SessionTable, out: Outgoing, drafter_pool: DrafterPool, consensus: Consensus, recall: HistoryNgram
    ) -> None:
        """`recall`: where the answers are kept, to draft from them for later jobs."""
        self._table = table
        self._out = out
        self._drafter_pool = drafter_pool
        self._consensus = consensus
        self._recall = recall

    def finish(self, session: Session, reason: FinishReason, now: float) -> None:
        """End a session whose text is complete."""
        self._out.say(session, now)
        self.drop(session)
        if session.recalls:
            self._recall.remember(session.answer)
        self._out.tell(finished(session, reason, now, self._consensus.judged(session)))
        for verdict in self._drafter_pool.text_ended(session.generated):
            self._out.tell(verdict)

    def fail(self, session: Session, failure: Failure, now: float) -> None:
        """End a session that cannot go on."""
        self._out.say(session, now)
        self.drop(session)
        self._out.tell(failed(session, failure, now))

    def drop(self, session: Session) -> None:
        """End a session about which nobody asks any more, because a later attempt of its job came."""
        self._table.remove(session)
        if session.told_open:
            self._out.tell(SessionClosed(job=session.job.job, session=session.id))

    def fail_overdue(self, now: float) -> None:
        """Fail the jobs whose time is over."""
        for session in list(self._table.by_job.values()):
            if now >= session.deadline:
                seconds = session.job.deadline_ms / 1000
                message = f"the job was not done within {seconds:g} s"
                self.fail(session, Failure(code=FailureCode.DEADLINE, message=message), now)
