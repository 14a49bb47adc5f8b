"""One run of the benchmark against a running system: plain and with drafts in turn, on the same target."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from twd.bench.analytic import Cost
from twd.bench.client import BenchClient, BenchRequest, MeasuredAnswer
from twd.bench.prompts import BenchPrompt
from twd.bench.report import Ceiling, PlainDraftedPair, by_drafter, by_position, ceiling, summarize
from twd.decoding.cost import CostCurve
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling, Speculation
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.model import CostPoint
from twd.wire.service import ServiceLease, read_lease

OFF = Speculation(enabled=False)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure."""

    prompts: Sequence[BenchPrompt]
    max_tokens: int = 96
    window: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All results of a run."""

    model: ModelId
    facts: SpeculatorFacts
    pairs: list[PlainDraftedPair]
    cost: list[CostPoint]
    ceilings: list[Ceiling]

    @property
    def document(self) -> dict[str, Any]:
        """Return the result for JSON."""
        lines = summarize(self.pairs)
        return {
            "model": self.model,
            "file": self.facts.file,
            "exact": self.facts.exact,
            "settings": self.facts.settings,
            "equal": all(pair.equal for pair in self.pairs),
            "kinds": [asdict(line) for line in lines],
            "by_position": [{"checked": checked, "taken": taken} for checked, taken in by_position(self.pairs)],
            "by_drafter": {
                name: {"checked": checked, "taken": taken} for name, (checked, taken) in by_drafter(self.pairs).items()
            },
            "cost_ms": {point.width: point.ms for point in self.cost},
            "ceilings": [asdict(one) | {"reached": one.reached(lines[-1].ratio)} for one in self.ceilings],
        }


async def find_speculator(client: BenchClient, model: str) -> ServiceLease:
    """The lease of the speculator that serves `model`, or of the first there is."""
    leases = await client.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    found = [lease for entry in await leases.entries() if (lease := read_lease(entry.value, entry.key)) is not None]
    ready = [lease for lease in found if facts_of(lease).ready]
    if not ready:
        raise TwdError(FailureCode.NOBODY_HOME, "no model is loaded; start one, for example with `twd up --demo`")
    for lease in ready:
        if model in ("", "default", lease.model):
            return lease
    known = ", ".join(sorted({lease.model for lease in ready}))
    raise TwdError(FailureCode.MODEL_NOT_FOUND, f"nobody serves {model!r}; there are: {known}")


def facts_of(lease: ServiceLease) -> SpeculatorFacts:
    """What a speculator tells; nothing if the lease is of another service."""
    return lease.told(SpeculatorFacts) or SpeculatorFacts(ready=False)


async def _pair(
    client: BenchClient,
    model: ModelId,
    prompt: BenchPrompt,
    plain_drafted: tuple[BenchRequest, BenchRequest],
    *,
    drafted_first: bool,
) -> PlainDraftedPair:
    """Ask one prompt in both ways."""
    answers: dict[bool, MeasuredAnswer] = {}
    for with_drafts in (drafted_first, not drafted_first):
        answers[with_drafts] = await client.answer(model, prompt, plain_drafted[with_drafts])
    return PlainDraftedPair(prompt.kind, answers[False], answers[True])


async def run_bench(
    client: BenchClient, lease: ServiceLease, plan: BenchPlan, tell: Callable[[int, int, PlainDraftedPair], None]
) -> BenchResult:
    """Ask every prompt without and with drafts; the order alternates, since the speed of machines drifts."""
    model = facts_of(lease).model
    plain = BenchRequest(OFF, plan.max_tokens, plan.sampling)
    drafted = BenchRequest(Speculation(window=plan.window), plan.max_tokens, plan.sampling)
    await client.answer(model, plan.prompts[0], BenchRequest(drafted.speculation, 32, plan.sampling))
    pairs: list[PlainDraftedPair] = []
    total = len(plan.prompts) * plan.rounds
    for number in range(total):
        prompt = plan.prompts[number % len(plan.prompts)]
        pairs.append(await _pair(client, model, prompt, (plain, drafted), drafted_first=number % 2 == 0))
        tell(number + 1, total, pairs[-1])
    lease = await find_speculator(client, model)
    return _result(model, lease, pairs)


def _result(model: ModelId, lease: ServiceLease, pairs: list[PlainDraftedPair]) -> BenchResult:
    facts = facts_of(lease)
    ms = _plain_scaled(facts.cost, pairs)
    shares = by_drafter(pairs)
    ceilings = []
    for pace in facts.drafters:
        checked, taken = shares.get(pace.drafter, (0, 0))
        if checked:
            lead = 0.0 if pace.beside else pace.lead_ms
            ceilings.append(ceiling(pace.drafter, ms, pace.token_ms, lead, taken / checked, facts.window_max))
    return BenchResult(model, facts, pairs, facts.cost, ceilings)


def _plain_scaled(cost: list[CostPoint], pairs: list[PlainDraftedPair]) -> Cost:
    """Return the measured cost curve, shifted so that a plain step costs what it cost in this run."""
    curve = CostCurve(cost)
    spent = sum(pair.plain.stats.decode_ms for pair in pairs)
    tokens = sum(max(0, len(pair.plain.tokens) - 1) for pair in pairs)
    scale = spent / tokens / curve.ms(1) if tokens else 1.0
    return lambda rows: scale * curve.ms(rows)
