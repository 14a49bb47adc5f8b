"""What targets said against a drafter, until they say otherwise."""

from typing import Final

from twd.wire.base import ModelId
from twd.wire.draft import DrafterChecked

_TARGETS_MAX: Final = 16
_LENGTH_MAX: Final = 200


class UnprofitableTargets:
    """The last verdict of each target that holds that a drafter will not pay."""

    def __init__(self) -> None:
        self._by_target: dict[ModelId, str] = {}

    def hear(self, event: DrafterChecked) -> None:
        """A target judged, perhaps otherwise than before."""
        self._by_target.pop(event.target, None)
        if not event.pays:
            self._by_target[event.target] = event.advice[:_LENGTH_MAX]
        while len(self._by_target) > _TARGETS_MAX:
            del self._by_target[next(iter(self._by_target))]

    @property
    def text(self) -> str:
        """What the latest doubter said; empty: nobody doubts."""
        return next(reversed(self._by_target.values()), "")
