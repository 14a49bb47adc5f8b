"""Which targets reported that a drafter does not pay, until they report otherwise."""

from typing import Final

from twd.wire.base import ModelId
from twd.wire.draft import DrafterChecked

_TARGETS_MAX: Final = 16
_LENGTH_MAX: Final = 200


class UnprofitableTargets:
    """The advice of each target whose last report was that a drafter does not pay."""

    def __init__(self) -> None:
        self._by_target: dict[ModelId, str] = {}

    def hear(self, event: DrafterChecked) -> None:
        """Take the report of a target; it may differ from the one before."""
        self._by_target.pop(event.target, None)
        if not event.pays:
            self._by_target[event.target] = event.advice[:_LENGTH_MAX]
        while len(self._by_target) > _TARGETS_MAX:
            del self._by_target[next(iter(self._by_target))]

    @property
    def text(self) -> str:
        """The advice of the latest such target; empty: there is none."""
        return next(reversed(self._by_target.values()), "")
