"""Tests a cut before it serves: for a fixed text, its stages must give the logits of the whole model.

The logits of the whole model are recorded once, on any machine that has its file. The result of each cut is kept, too.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from twd.decoding.filters import Indices
from twd.engine.build import engine_build
from twd.engine.context import BatchTokens, Logits
from twd.engine.experts.budget import ExpertWish
from twd.engine.experts.choose import experts_in_memory
from twd.engine.measuring.remembered import build_id
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.model_file import file_hash
from twd.kit.json_cache import file_name, recall, remember
from twd.wire.failures import FailureCode, TwdError

_log = logging.getLogger("twd.engine.stage")

PASSES: Final = (14, 3, 5, 2)
"""The n_tokens of the test's passes, one after the other from position 0."""
BEST: Final = 8
"""How many of the best tokens are compared at each position."""
_CLOSE: Final = 0.1
"""A near result: the mean difference of the logits is below this share of their range. Other builds, processors and
weight layouts stay below it."""
_FLIPPED: Final = 1 / 8


class RecordedLogits(msgspec.Struct, frozen=True, kw_only=True):
    """The test's result of a model: at each position the best tokens with their logits, and a digest of all logits.

    In a ring the logits stay on the output stage, so it reports only this.
    """

    model: str
    build: str
    settings: str
    best: list[list[int]]
    logits: list[list[float]]
    digest: str
    from_disk: bool = False


class CutComparison(msgspec.Struct, frozen=True, kw_only=True):
    """How a cut compares with the whole model: exact (bit by bit) or close (another build or processor).

    If it is neither, it must not serve. `flipped`: positions with another best token.
    """

    exact: bool
    close: bool
    flipped: int
    max_difference: float


def check_passes(vocab_size: int) -> list[tuple[int, list[int]]]:
    """The test's text: (position, tokens) of each pass."""
    ids = [(number * 7919 + 13) % vocab_size for number in range(sum(PASSES))]
    starts = [sum(PASSES[:index]) for index in range(len(PASSES))]
    return [(at, ids[at : at + count]) for at, count in zip(starts, PASSES, strict=True)]


def run_stages(stages: Sequence[StageEngine], slot: int = 0) -> Logits:
    """Run the test on stages in this process; returns all logits. Before each pass, wrong tokens are computed and
    rolled back."""
    seen = []
    for at, tokens in check_passes(stages[0].vocab_size):
        _pass(stages, slot, at, tokens[::-1] + tokens[:1])
        for stage in stages:
            stage.rollback(slot, at)
        _pass(stages, slot, at, tokens)
        seen += [stages[-1].logits(row).copy() for row in range(len(tokens))]
    for stage in stages:
        stage.clear(slot)
    return np.array(seen)


def best_tokens(logits: Logits) -> Indices:
    """The `BEST` tokens with the highest logits, highest first; of equal ones the lower id first. NaN comes last."""
    down = -logits
    count = min(BEST, len(down))
    able = np.flatnonzero(~(down > np.partition(down, count - 1)[count - 1]))
    return able[np.argsort(down[able], kind="stable")][:count]


def record(logits: Logits, *, model: str, settings: str, from_disk: bool = False) -> RecordedLogits:
    """Make a record of the logits of the test."""
    best = np.array([best_tokens(row) for row in logits])
    return RecordedLogits(
        model=model,
        build=engine_build(),
        settings=settings,
        best=best.tolist(),
        logits=np.take_along_axis(logits, best, axis=1).astype(float).tolist(),
        digest=hashlib.sha256(np.ascontiguousarray(logits, np.float32).tobytes()).hexdigest(),
        from_disk=from_disk,
    )


def compare(seen: RecordedLogits, wanted: RecordedLogits) -> CutComparison:
    """Compare the record of a cut with that of the whole model."""
    if len(seen.logits) != len(wanted.logits) or not np.isfinite(seen.logits).all():
        return CutComparison(exact=False, close=False, flipped=len(wanted.best), max_difference=math.inf)
    differences = []
    for ids, values, wanted_ids, wanted_values in zip(seen.best, seen.logits, wanted.best, wanted.logits, strict=True):
        found = dict(zip(ids, values, strict=True))
        for token, value in zip(wanted_ids, wanted_values, strict=True):
            differences.append(abs(value - found.get(token, values[-1])))
    exact = seen.digest == wanted.digest
    flipped = sum(ids[0] != wanted_ids[0] for ids, wanted_ids in zip(seen.best, wanted.best, strict=True))
    near = float(np.mean(differences)) < _CLOSE * float(np.ptp(wanted.logits))
    return CutComparison(
        exact=exact,
        close=exact or (near and flipped <= _FLIPPED * len(wanted.best)),
        flipped=flipped,
        max_difference=max(differences),
    )


def recorded_logits(path: Path, folder: Path, *, exact: bool = True, threads: int = 0) -> RecordedLogits:
    """The record of the whole model, from `folder` or by running the model.

    A model that does not fit in this machine's memory is run from disk. Then a good cut is close, but seldom exact;
    except for a mixture, whose experts alone are read from disk.
    """
    layers = inspect(path).layers
    model = file_hash(path)
    kept = folder / file_name("recorded", (model, build_id(), str(exact)))
    known = recall(kept, RecordedLogits)
    if known is not None:
        return known
    plan = StagePlan(
        path, 0, layers, layers, head=True, ctx_size=sum(PASSES) + 8, parallel=1, threads=threads, exact=exact
    )
    with _load_whole(plan) as whole:
        from_disk = whole.model.settings.from_disk
        found = record(run_stages([whole]), model=model, settings=whole.settings, from_disk=from_disk)
    remember(kept, found)
    return found


def _load_whole(plan: StagePlan) -> StageEngine:
    try:
        return StageEngine.load(plan)
    except TwdError as error:
        if error.code is not FailureCode.OUT_OF_MEMORY:
            raise
        _log.info("%s, so it is run from disk", error)
        experts = _expert_bytes(plan)
        return StageEngine.load(replace(plan, expert_bytes=experts, from_disk=not experts))


def _expert_bytes(plan: StagePlan) -> int:
    """The memory for experts that are read while the model computes; 0 if it is no mixture or memory is too little."""
    try:
        types = (plan.type_k or "f16", plan.type_v or "f16")
        return experts_in_memory(plan.path, ExpertWish(), tokens=plan.ctx_size, sessions=plan.parallel, types=types)
    except TwdError:
        return 0


def checked_cut(
    recorded: RecordedLogits,
    cuts: Sequence[tuple[int, int]],
    folder: Path,
    run: Callable[[], RecordedLogits],
    builds: str = "",
) -> CutComparison:
    """The comparison for a cut into (first, end) slices, from `folder` or by running the test.

    `builds` names the builds of other machines that hold stages. A result that is not at least close is not kept.
    """
    kept = folder / file_name("checked", (recorded.digest, build_id(), builds, repr(list(cuts))))
    known = recall(kept, CutComparison)
    if known is not None:
        return known
    verdict = compare(run(), recorded)
    if verdict.close:
        remember(kept, verdict)
    return verdict


def require_good(verdict: CutComparison, what: str, *, alike: bool) -> None:
    """Raise TwdError for a cut that gives other logits.

    `alike`: all stages have the build of the recording, and the whole model was in memory. Then it must be exact.
    """
    if verdict.exact or (verdict.close and not alike):
        return
    raise TwdError(
        FailureCode.MODEL_LOAD,
        f"{what}: it computes something else than the whole model ({verdict.flipped} of {sum(PASSES)} best tokens "
        f"differ, logits by up to {verdict.max_difference:.3g}); set `pool.engine: rpc`",
    )


def _pass(stages: Sequence[StageEngine], slot: int, at: int, tokens: list[int]) -> None:
    rows = BatchTokens()
    rows.add(slot, at, tokens)
    states = None
    for stage in stages:
        states = stage.decode(rows, states)
