"""What the gate remembers of requests that ended: the verdicts on each member, the target's time, the figures of the
status. No clock, no bus.
"""

from collections.abc import Callable, Sequence

from twd.gate.actions import FoundAnswer
from twd.gate.counts import GateCounts
from twd.gate.economy import Economy
from twd.gate.request import GateRequest
from twd.gate.routing import Fleet
from twd.gate.trust import AuditTask, Trust
from twd.wire.base import Event, ModelId
from twd.wire.job import AnswerVerdict, JobFinished, JobSubmitted
from twd.wire.judging import GATE, AnswerAudited, AnswerJudged, GateCost, ModeClosed
from twd.wire.leases.gate import GateFacts, MemberPair


class GateRecords:
    """The records of one gate. Routing, audits and the choice between judging and exact speculation rest on them."""

    def __init__(self, fleet: Fleet, trust: Trust, began: float, dice: Callable[[], float]) -> None:
        """`dice`: random numbers below 1, to choose which answers are audited."""
        self._fleet = fleet
        self._trust = trust
        self._dice = dice
        self._counts = GateCounts(began)
        self._economy: dict[ModelId, Economy] = {}

    def judging_pays(self, target: ModelId) -> bool:
        """Whether the next answer is to be judged instead of written by the target."""
        return self._economy_of(target).judging()

    def _economy_of(self, target: ModelId) -> Economy:
        return self._economy.setdefault(target, Economy())

    # -- what has happened -----------------------------------------------------------------------

    def found(self, found: FoundAnswer) -> None:
        """Add a verdict to the record of the member."""
        member = self._fleet.members[found.member]
        if found.verdict == "failed":
            member.failed += 1
            return
        member.judged(found.kept)
        member.approved += found.verdict == "approve"
        member.corrected += found.verdict == "correct"
        member.rejected += found.verdict == "reject"

    def wrote(self, job: JobSubmitted, name: str, seconds: float) -> None:
        """Note how many seconds a member took to write an answer."""
        self._fleet.members[name].took(seconds)
        self._fleet.wrote(job, name)

    def ended(self, request: GateRequest, finished: JobFinished | None) -> AnswerJudged | None:
        """Count a request that ended; returns its verdict and cost to publish, or None if it failed."""
        self._counts.ended(request.core, finished)
        if finished is None or finished.judged is None:
            return None
        if finished.judged.approximate and finished.judged.verdict is AnswerVerdict.APPROVE:
            text = "".join(request.text) + finished.tail
            self._trust.passed(request.job, request.target, finished.judged.member, text, self._dice())
        core, spent, tokens = request.core, request.core.spent, finished.stats.completion_tokens
        exact_ms = self._compare(request, tokens)
        self._counts.compare(spent.target_ms, exact_ms, finished.judged.kept)
        return AnswerJudged(
            job=request.job.job,
            model=request.job.model,
            judged=finished.judged,
            cost=GateCost(
                target_ms=round(spent.target_ms, 3),
                member_ms=round(spent.member_ms, 3),
                judge_ms=round(spent.judge_ms, 3),
                tokens=tokens,
                exact_ms=None if exact_ms is None else round(exact_ms, 3),
            ),
            asked=core.asked,
            rejected=core.rejected,
        )

    def _compare(self, request: GateRequest, tokens: int) -> float | None:
        """Learn what an answer cost the target; returns what it would have cost with exact speculation, if known."""
        economy = self._economy_of(request.target)
        way = economy.judged if request.core.asked else economy.exact
        if not request.job.resume and tokens:
            way.learn(request.core.spent.target_ms, tokens)
        exact_ms = economy.exact.token_ms
        return None if exact_ms is None else exact_ms * tokens

    def audited(self, task: AuditTask, wrong: bool, target_ms: float) -> Sequence[Event]:
        """Record the result of an audit; returns the events to publish."""
        self._counts.audit_ms += target_ms
        audit, closed = self._trust.audited(task, wrong)
        model = ModelId(task.target + GATE)
        result = AnswerAudited(
            job=task.job.job,
            model=model,
            member=task.member,
            wrong=wrong,
            audits=audit.audits,
            errors=audit.errors,
            low=audit.low,
            high=audit.high,
            target_ms=round(target_ms, 3),
        )
        if not closed:
            return [result]
        return [result, ModeClosed(model=model, mode="gate", member=task.member, why=closed[:1024])]

    # -- what others read ------------------------------------------------------------------------

    def facts(self, now: float, cache_hits: int) -> GateFacts:
        """The records for the lease of the gate; the caller adds how it is now."""
        self._counts.cache_hits = cache_hits
        counts, members, trust = self._counts, self._fleet.members.values(), self._trust
        return GateFacts(
            agents=list(self._fleet.members),
            resting=[one.name for one in members if one.resting],
            wins={one.name: one.approved for one in members},
            useless=[one.name for one in members if one.useless],
            calibrated=[MemberPair(target=target, member=member) for target, member in trust.standing],
            stale=[MemberPair(target=pair[0], member=pair[1], why=why) for pair, why in trust.stale.items()],
            audited=trust.told,
            target_s=round(counts.target_ms / 1000, 2),
            audit_s=round(counts.audit_ms / 1000, 2),
            fleet_s=round(counts.agent_ms / 1000, 2),
            saved_s=round(counts.saved_ms / 1000, 2),
            kept_tokens=counts.kept,
            stats=counts.told(now),
        )
