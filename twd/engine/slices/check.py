"""A cut proves itself before it serves: a fixed text through its stages must give the whole model's logits.

What the whole model gives is recorded once, on any machine that holds its file, and so is each cut's verdict.
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
from twd.engine.measuring.remembered import build_id
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.model_file import file_hash
from twd.kit.json_cache import file_name, recall, remember
from twd.wire.failures import FailureCode, TwdError

_log = logging.getLogger("twd.engine.stage")

PASSES: Final = (14, 3, 5, 2)
"""How many tokens the test's passes have, one after the other from position 0."""
BEST: Final = 8
"""So many of each position's tokens are compared."""
_CLOSE: Final = 0.1
"""Logits of another build, processor or weight layout differ by less of their range on the average."""
_FLIPPED: Final = 1 / 8


class RecordedLogits(msgspec.Struct, frozen=True, kw_only=True):
    """What a model gave: its best tokens and their logits at each position, and a digest of all logits. The stage with
    the head can say this much of a ring, since the logits themselves stay there."""

    model: str
    build: str
    settings: str
    best: list[list[int]]
    logits: list[list[float]]
    digest: str
    from_disk: bool = False


class CutComparison(msgspec.Struct, frozen=True, kw_only=True):
    """How a cut compares: bit for bit, or closely (another build or processor); where neither, it must not serve."""

    exact: bool
    close: bool
    flipped: int
    max_difference: float


def check_passes(vocab_size: int) -> list[tuple[int, list[int]]]:
    """The text: (position, tokens) of each pass."""
    ids = [(number * 7919 + 13) % vocab_size for number in range(sum(PASSES))]
    starts = [sum(PASSES[:index]) for index in range(len(PASSES))]
    return [(at, ids[at : at + count]) for at, count in zip(starts, PASSES, strict=True)]


def run_stages(stages: Sequence[StageEngine], slot: int = 0) -> Logits:
    """The test through stages in this process, all logits; before each pass wrong tokens are fed and taken back."""
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
    """The highest of a row, the highest first; of equals the lower id. What is no number comes last, as in a sort."""
    down = -logits
    count = min(BEST, len(down))
    able = np.flatnonzero(~(down > np.partition(down, count - 1)[count - 1]))
    return able[np.argsort(down[able], kind="stable")][:count]


def record(logits: Logits, *, model: str, settings: str, from_disk: bool = False) -> RecordedLogits:
    """Write down what came out."""
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
    """How a chain compares with the whole model."""
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
    """What the whole model gives, from `folder` or by running it.

    A model that does not fit in this machine's memory is run from disk; then a good cut is close, but seldom exact.
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
        return StageEngine.load(replace(plan, from_disk=True))


def checked_cut(
    recorded: RecordedLogits,
    cuts: Sequence[tuple[int, int]],
    folder: Path,
    run: Callable[[], RecordedLogits],
    builds: str = "",
) -> CutComparison:
    """The verdict on a cut into (first, end) slices, from `folder` or by running the test.

    `builds` names the builds of other machines that hold stages. A verdict that is not even close is not kept.
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
    """Refuse a cut that computes something else. `alike`: every stage has the build that recorded, and the whole model
    was in memory; then nothing but equality will do."""
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
