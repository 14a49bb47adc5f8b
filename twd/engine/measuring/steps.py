"""Keeps on disk how long one token of each model took on a device of this machine. Forecasts for other models use it.

This module does not load llama.cpp, because agents use it, too.
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
"""Forecasts are for windows of this many tokens."""
STEPS_MAX: Final = 32
KINDS_MAX: Final = 16
_KIND: Final = "step"


def keep_step(folder: Path, model: Path, cost: Sequence[CostPoint], device: str = "") -> None:
    """Keep the times of this model's passes; replaces what was kept for it. `device`: llama.cpp's name of the only
    device that computed; empty: the CPU."""
    step = measured_step(model, cost, device)
    if step is not None:
        what = (str(model.resolve()), device) if device else str(model.resolve())
        remember(folder / file_name(_KIND, what), step)


def measured_step(model: Path, cost: Sequence[CostPoint], device: str = "") -> MeasuredStep | None:
    """The same as a value; None if a single token was not timed."""
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
        device=device,
    )


def known_steps(folder: Path) -> list[MeasuredStep]:
    """The measured steps of the models that were measured here last."""
    try:
        files = sorted(folder.glob(f"{_KIND}-*.json"), key=lambda file: file.stat().st_mtime)
    except OSError:  # a file was replaced at this moment
        return []
    found = (recall(file, MeasuredStep) for file in files[-STEPS_MAX:])
    return [one for one in found if one is not None]
