"""Measures a model when it is loaded: whether it is exact, and how long its passes take. If the same file was measured
under the same conditions before, that measurement is read from disk."""

import logging
from collections.abc import Sequence
from pathlib import Path

from twd.decoding.batches import WidthPadding
from twd.decoding.cost import CostCurve
from twd.engine.device_rows.trial import logits_place, try_device_rows
from twd.engine.exactness import ExactPlan, fixed_rows, self_test, sessions_together
from twd.engine.library import devices
from twd.engine.load_plan import LoadPlan
from twd.engine.measuring.cost import SHARED_WIDTHS, measure_cost
from twd.engine.measuring.remembered import Measurement, circumstances, farther
from twd.engine.measuring.steps import keep_step
from twd.engine.target import LocalTarget
from twd.kit.json_cache import recall, remember
from twd.kit.progress import Progress
from twd.process.measuring_turn import MeasuringTurns
from twd.wire.model import CostPoint, Exactness

_log = logging.getLogger("twd.engine")

_UNMEASURED = (CostPoint(width=1, ms=5.0), CostPoint(width=32, ms=50.0))
_TIMING_S = 0.3


def find_measurement(plan: LoadPlan, exact: ExactPlan, target: LocalTarget, progress: Progress) -> Measurement:
    """What is known of this model here, measured before or now."""
    if plan.test or plan.timed:
        return _known_or_new(plan, exact, target, progress)
    return Measurement(exactness=_untested(exact), cost=list(_UNMEASURED))


def _known_or_new(plan: LoadPlan, exact: ExactPlan, target: LocalTarget, progress: Progress) -> Measurement:
    """The measurement of this model under these conditions, from the folder, or else measured now."""
    if plan.memory is None:
        return measure_now(plan, exact, target, progress)
    where, way_ms = (plan.pool.kind, plan.pool.rtt_ms) if plan.pool else ("", 0.0)
    if plan.expert_bytes:
        share = round(10 * plan.expert_bytes / max(1, target.context.model.info.size_bytes))
        where = f"{share}/10 of the experts in memory"
    if plan.placement is not None:
        where = plan.placement.told
    repacked = target.context.model.repacked
    about = circumstances(
        plan.path, exact.settings, exact.rows_min, plan.gpu_layers, where, repacked=repacked, tested=plan.test
    )
    kept = plan.memory / about.name
    known = recall(kept, Measurement)
    if known is not None:
        if known.rows is not None:
            known.rows.leave(target.context)
        return farther(known, way_ms)
    with MeasuringTurns().measuring() as undisturbed:
        found = measure_now(plan, exact, target, progress)
    if undisturbed:
        _keep(kept, plan, target, found, way_ms, where)
    return found


def _keep(kept: Path, plan: LoadPlan, target: LocalTarget, found: Measurement, way_ms: float, where: str) -> None:
    assert plan.memory is not None
    remember(kept, farther(found, -way_ms))
    alone = _only_device(plan, target) if not where else None  # otherwise other machines or a disk took part
    if alone is not None:
        keep_step(plan.memory, plan.path, found.cost, alone)


def measure_now(plan: LoadPlan, exact: ExactPlan, target: LocalTarget, progress: Progress) -> Measurement:
    """Measure the model now, whatever is on disk."""
    progress(0.9, "timing windows")
    place = logits_place(plan.pool, offloads=target.context.model.offloads)
    rows = None if place is None else try_device_rows(target.context, place)
    if not plan.test:
        cost = measure_cost(target.context, budget_s=_TIMING_S)
        return Measurement(exactness=_untested(exact), cost=cost, rows=rows)
    reads = plan.expert_bytes > 0
    more = SHARED_WIDTHS if exact.fixed else ()
    points = measure_cost(target.context, rows_min=exact.rows_min, away=plan.away, reads=reads, more=more)
    shares = exact.fixed and target.planner.rules.can_pad
    together = sessions_together(points, target.n_slots) if shares else 1
    found = _tested(plan, exact, target, points, together, progress)
    if together > 1 and not found.exact:
        _log.info("sessions that share a pass change each other's texts on this device, so none do")
        together, found = 1, _tested(plan, exact, target, points, 1, progress)
    return Measurement(exactness=found, cost=points, together=together, rows=rows)


def _tested(
    plan: LoadPlan,
    exact: ExactPlan,
    target: LocalTarget,
    points: Sequence[CostPoint],
    together: int,
    progress: Progress,
) -> Exactness:
    if exact.fixed or plan.away:  # otherwise the test's single steps must have one token, even if more seem cheaper
        use_cost(plan, exact, target, points, together)
    progress(0.95, "comparing windows with single steps")
    rules = target.planner.rules
    return self_test(target, exact.describe(rules.rows_fixed, rules.together))


def use_cost(
    plan: LoadPlan, exact: ExactPlan, target: LocalTarget, points: Sequence[CostPoint], together: int = 1
) -> CostCurve:
    """Let the planner use the measured cost of passes. Returns the cost curve of passes planned like that."""
    if exact.fixed:
        each = fixed_rows(points, together)
        target.fix_rows(each, together)
        rows = each * together
        ms = CostCurve(points).ms(rows)
        return CostCurve([CostPoint(width=many * rows, ms=many * ms) for many in (1, 2)])
    padding = WidthPadding(tuple(points), target.window_max if plan.away else 0)
    cost = CostCurve(padding.costs())
    target.planner.use_cost(cost.ms, padding)
    return cost


def _only_device(plan: LoadPlan, target: LocalTarget) -> str | None:
    """llama.cpp's name of the only GPU, if it computes all layers; empty: the CPU computes all; None: several do."""
    model = target.context.model
    if not model.offloads:
        return ""
    cards = [device.name for device in devices() if device.is_gpu]
    return cards[0] if len(cards) == 1 and plan.gpu_layers > model.info.layers else None


def _untested(exact: ExactPlan) -> Exactness:
    return Exactness(exact=False, settings=exact.describe())
