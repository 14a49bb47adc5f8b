"""How fast disks give experts of mixtures: measured with a model that lies there, and kept for a day."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from twd.engine.experts.disk import disk_speed
from twd.engine.experts.layout import expert_layout
from twd.kit.json_cache import file_name, recall, remember
from twd.wire.failures import TwdError
from twd.wire.node import ModelFile

FRESH_S: Final = 86_400.0
"""After so long, speeds are measured again."""


class MeasuredDisk(msgspec.Struct, frozen=True):
    """What a disk gave, and when that was measured (seconds since 1970)."""

    at: float
    bytes_s: int


@dataclass
class DiskSpeeds:
    """The speeds of disks with mixtures; a machine without mixtures measures nothing."""

    cache: Path
    _mixtures: dict[tuple[str, int], bool] = field(default_factory=dict)

    def of(self, models: Iterable[ModelFile]) -> dict[int, int]:
        """Return bytes a second by the number of the disk's device; blocks while it measures."""
        largest: dict[int, ModelFile] = {}
        for model in sorted(models, key=lambda one: one.size_bytes):
            if not model.problem and self._is_mixture(model):
                largest |= dict.fromkeys(_device(model.path), model)
        return {device: self._speed(device, Path(model.path)) for device, model in largest.items()}

    def _is_mixture(self, model: ModelFile) -> bool:
        key = (model.path, model.size_bytes)
        if key not in self._mixtures:
            try:
                self._mixtures[key] = expert_layout(Path(model.path)) is not None
            except (TwdError, OSError):
                self._mixtures[key] = False
        return self._mixtures[key]

    def _speed(self, device: int, path: Path) -> int:
        kept = self.cache / file_name("disk-speed", [device])
        known = recall(kept, MeasuredDisk)
        if known is not None and 0 <= time.time() - known.at < FRESH_S:
            return known.bytes_s
        try:
            found = MeasuredDisk(time.time(), int(disk_speed(path)))
        except (TwdError, OSError):
            return 0
        remember(kept, found)
        return found.bytes_s


def _device(path: str) -> Iterator[int]:
    try:
        yield os.stat(path).st_dev
    except OSError:  # it was removed meanwhile
        return
