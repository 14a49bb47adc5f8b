"""How long a request waits for its target: longer for one that was served lately, as its process is started again."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from twd.gate.calibration.parts import TARGET
from twd.kit.jobs.owner import OwnerPolicy
from twd.wire.base import ModelId

LATELY_S: Final = 30.0
"""A target that was served at most so many seconds ago comes back; one that was stopped earlier does not."""
RETURNING: Final = replace(TARGET, patience_s=TARGET.recovery_s)


class ServedTargets:
    """When each model was served last."""

    def __init__(self) -> None:
        self._at: dict[ModelId, float] = {}

    def see(self, models: Iterable[ModelId], now: float) -> None:
        """Note which models are served now."""
        self._at.update(dict.fromkeys(models, now))

    def policy(self, target: ModelId, now: float) -> OwnerPolicy:
        """Return how long jobs for this target wait for somebody who takes them."""
        at = self._at.get(target)
        return RETURNING if at is not None and now - at <= LATELY_S else TARGET
