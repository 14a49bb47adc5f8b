"""What a token of each model took on this machine's processor, kept on disk: forecasts of other models learn from it.

Nothing here loads llama.cpp: agents read it, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.step_reads import step_reads
from twd.kit.json_cache import file_name, recall, remember
from twd.wire.model import CostPoint
from twd.wire.node import MeasuredStep, WeightShare

WINDOW: Final = 8
"""Forecasts are for windows of so many tokens."""
STEPS_MAX: Final = 32
KINDS_MAX: Final = 16
_KIND: Final = "step"


def keep_step(folder: Path, model: Path, cost: Sequence[CostPoint]) -> None:
    """Keep what passes of this model took, in place of what was known of it."""
    step = measured_step(model, cost)
    if step is not None:
        remember(folder / file_name(_KIND, str(model.resolve())), step)


def measured_step(model: Path, cost: Sequence[CostPoint]) -> MeasuredStep | None:
    """The same as a value; None where a single token was never timed."""
    times = {point.width: point.ms for point in cost}
    if not times.get(1):
        return None
    reads = step_reads(inspect(model))
    return MeasuredStep(
        layers=reads.layers,
        weight_bytes=reads.layer_bytes,
        kinds=[WeightShare(kind=kind, share=share) for kind, share in reads.kinds[:KINDS_MAX]],
        head_bytes=reads.head_bytes,
        head_kind=reads.head_kind,
        ms=times[1],
        window=round(times.get(WINDOW, 0.0) / times[1], 3),
    )


def known_steps(folder: Path) -> list[MeasuredStep]:
    """Of the models that were loaded here last."""
    try:
        files = sorted(folder.glob(f"{_KIND}-*.json"), key=lambda file: file.stat().st_mtime)
    except OSError:  # one of them was replaced in this moment
        return []
    found = (recall(file, MeasuredStep) for file in files[-STEPS_MAX:])
    return [one for one in found if one is not None]
