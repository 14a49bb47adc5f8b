"""A model of this machine, from file to a measured target in one call."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from twd.engine.context import Context, ContextSettings
from twd.engine.cost import CostCurve, measure_cost
from twd.engine.exactness import exact_plan, self_test
from twd.engine.model import Model, ModelSettings
from twd.engine.probe import can_rollback
from twd.engine.target import LocalTarget
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import Exactness, ModelFacts

Stage = Callable[[float, str], None]
_LOADED = 0.8


def _ignore(_share: float, _stage: str) -> None:
    """No one listens to the progress."""


@dataclass(slots=True)
class LocalEngine:
    """Everything that came of loading; close it to give the memory back."""

    model: Model
    target: LocalTarget
    exactness: Exactness
    cost: CostCurve
    load_ms: int

    def facts(self, model: ModelId) -> ModelFacts:
        """What others must know of this model."""
        return self.model.facts(
            model,
            ctx_size=self.target.ctx_size,
            parallel=self.target.n_slots,
            can_rollback=self.target.can_rollback,
            note="" if self.target.can_rollback else "cannot roll back: no drafts, no shared prefixes",
        )

    def close(self) -> None:
        """Free context and weights; harmless when repeated."""
        self.target.shutdown()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_local(
    model_settings: ModelSettings,
    context_settings: ContextSettings,
    *,
    exact: bool = True,
    on_stage: Stage = _ignore,
) -> LocalEngine:
    """Load, set up as `exact` asks for, test that it is, and measure what passes cost."""
    began = time.perf_counter()
    with ExitStack() as undo:
        model = Model.load(model_settings, lambda share: on_stage(_LOADED * share, "loading"))
        undo.callback(model.close)
        if context_settings.ctx_size < 1 or context_settings.parallel < 1:
            raise TwdError(FailureCode.BAD_REQUEST, "ctx_size and parallel must be at least 1", "engine.ctx_size")
        plan = exact_plan(model, context_settings, exact)
        context = undo.enter_context(Context(model, plan.settings))
        rollback = can_rollback(context)
        target = LocalTarget(context, rows_min=plan.rows_min, can_rollback=rollback)
        on_stage(_LOADED, "measuring")
        points = measure_cost(context, rows_min=plan.rows_min)
        cost = CostCurve(points)
        target.planner.use_cost(CostCurve(points).ms)
        on_stage(0.9, "self-test")
        exactness = self_test(target, plan.describe())
        undo.pop_all()
    on_stage(1.0, "ready")
    return LocalEngine(model, target, exactness, cost, round((time.perf_counter() - began) * 1000))
