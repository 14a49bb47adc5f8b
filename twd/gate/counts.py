"""The counts of a gate for its status. Pure."""

from dataclasses import dataclass

from twd.gate.core import GateJob
from twd.wire.job import AnswerVerdict, JobFinished
from twd.wire.leases.gate import GateFigures


@dataclass
class GateCounts:
    """Requests by their verdict, and the milliseconds that they took."""

    began: float
    total_requests: int = 0
    approved: int = 0
    corrected: int = 0
    rejected: int = 0
    errors: int = 0
    cache_hits: int = 0
    exact: int = 0
    unjudged: int = 0
    agent_ms: float = 0.0
    verify_ms: float = 0.0
    asked: int = 0
    used_target: int = 0
    target_ms: float = 0.0
    exact_ms: float = 0.0
    """What exact speculation would have taken of the target for the same answers, as far as it is known."""
    compared_ms: float = 0.0
    """What the answers took for which `exact_ms` is known."""
    audit_ms: float = 0.0
    kept: int = 0
    """Tokens that members wrote and that were kept."""

    def compare(self, target_ms: float, exact_ms: float | None, kept: int) -> None:
        """Add one answer: the milliseconds that it took, and those that exact speculation would have taken."""
        self.target_ms += target_ms
        self.kept += kept
        if exact_ms is not None:
            self.exact_ms += exact_ms
            self.compared_ms += target_ms

    @property
    def saved_ms(self) -> float:
        """The target's time that was saved beside exact speculation. Audits are subtracted; a loss is negative."""
        return self.exact_ms - self.compared_ms - self.audit_ms

    def ended(self, core: GateJob, finished: JobFinished | None) -> None:
        """Count one request that ended."""
        self.total_requests += 1
        if finished is None or finished.judged is None:
            self.errors += 1
            return
        match finished.judged.verdict:
            case AnswerVerdict.APPROVE:
                self.approved += 1
            case AnswerVerdict.CORRECT:
                self.corrected += 1
            case AnswerVerdict.REJECT:
                self.rejected += 1
            case AnswerVerdict.UNJUDGED:
                self.unjudged += 1
            case AnswerVerdict.EXACT:
                self.exact += 1
        self.asked += bool(core.asked)
        self.agent_ms += core.spent.member_ms
        self.verify_ms += core.spent.judge_ms
        self.used_target += finished.judged.verdict not in (AnswerVerdict.APPROVE, AnswerVerdict.UNJUDGED)

    def told(self, now: float) -> GateFigures:
        """The figures of `/v1/twd/status`."""
        asked, total = max(1, self.asked), max(1, self.total_requests)
        return GateFigures(
            total_requests=self.total_requests,
            approved=self.approved,
            corrected=self.corrected,
            rejected=self.rejected,
            errors=self.errors,
            approve_rate=round(self.approved / asked, 4),
            gpu_usage_rate=round(self.used_target / total, 4),
            cache_hits=self.cache_hits,
            avg_agent_ms=round(self.agent_ms / asked, 2),
            avg_verify_ms=round(self.verify_ms / asked, 2),
            uptime_seconds=round(now - self.began, 1),
        )
