"""The known drafters: how the speculator describes one, why it refuses one, and which are still alive."""

import math
from collections.abc import Collection
from typing import Final

from twd.drafting.calibration import Calibration
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId
from twd.wire.draft import DrafterAttached, DrafterChecked, DrafterPace
from twd.wire.model import ModelFacts

AWAY_MAX: Final = 64
_TOKEN_MS: Final = 5.0
"""Milliseconds for a token of a drafter that tells none."""


class DrafterRegistry:
    """The attached drafters, by their leases. A drafter whose lease is gone is away; it is attached again when the
    lease is back."""

    def __init__(self) -> None:
        self._here: dict[InstanceId, AttachedDrafter] = {}
        self._away: dict[InstanceId, AttachedDrafter] = {}

    def __len__(self) -> int:
        return len(self._here) + len(self._away)

    @property
    def here(self) -> set[InstanceId]:
        """The drafters whose lease is there."""
        return set(self._here)

    def take(self, drafter: AttachedDrafter) -> bool:
        """Attach a drafter; returns whether it is new."""
        new = drafter.name not in self._here and drafter.name not in self._away
        self._away.pop(drafter.name, None)
        self._here[drafter.name] = drafter
        return new

    def left(self, name: InstanceId) -> None:
        """Forget a drafter that said that it leaves."""
        self._here.pop(name, None)
        self._away.pop(name, None)

    def lost(self, name: InstanceId) -> None:
        """Mark a drafter as away, because its lease is gone: it is dead or cut off."""
        drafter = self._here.pop(name, None)
        if drafter is None:
            return
        self._away[name] = drafter
        if len(self._away) > AWAY_MAX:
            del self._away[next(iter(self._away))]

    def returned(self, alive: Collection[InstanceId]) -> list[AttachedDrafter]:
        """Returns the drafters that were away and have a lease again, and attaches them."""
        back = [drafter for name, drafter in self._away.items() if name in alive]
        for drafter in back:
            self.take(drafter)
        return back


def taken_for(event: DrafterAttached, facts: ModelFacts, *, beside: bool, step_ms: float) -> AttachedDrafter:
    """Returns the speculator's record of a drafter that offers itself. `step_ms`: what a step of the target takes."""
    told_ms = event.token_ms or _TOKEN_MS
    return AttachedDrafter(
        name=event.drafter,
        node=event.node,
        beside=beside,
        yields=event.yields,
        model=event.model,
        architecture=event.vocab.architecture,
        by_text=event.vocab.hash != facts.vocab.hash,
        token_ms=min(told_ms, _by_size(event, facts, step_ms)) if beside else told_ms,
        plan=event.plan,
    )


def _by_size(event: DrafterAttached, facts: ModelFacts, step_ms: float) -> float:
    """Returns how long a token takes a drafter on the target's device, by the sizes of both models.

    A drafter on the target's device often measures itself while the target loads there, and then tells a time many
    times too long. Most of a step is reading the weights, so sizes tell more; the first drafts show the true time.
    """
    if not event.size_bytes or not facts.size_bytes:
        return math.inf
    return step_ms * event.size_bytes / facts.size_bytes


def refusal(event: DrafterAttached, facts: ModelFacts) -> DrafterChecked | None:
    """Returns why the drafts of a drafter cannot be used; None: they can."""
    if event.by_text or event.vocab.hash == facts.vocab.hash:
        return None
    return DrafterChecked(
        drafter=event.drafter,
        target=facts.model,
        same_vocab=False,
        same_family=event.vocab.architecture == facts.vocab.architecture,
        agreement=0.0,
        compared=0,
        pays=False,
        advice=f"{event.model} speaks other tokens than {facts.model}: use a draft model of the same family, "
        "or let it draft by text",
    )


def pace_of(drafter: AttachedDrafter, record: Calibration | None) -> DrafterPace:
    """Returns what was measured of a drafter, for the lease."""
    return DrafterPace(
        drafter=drafter.name,
        model=drafter.model,
        token_ms=round(drafter.token_ms, 3),
        lead_ms=round(drafter.lead_ms, 3),
        agreement=round(record.agreement, 4) if record else 0.0,
        compared=int(record.weight) if record else 0,
        beside=drafter.beside,
        by_text=drafter.by_text,
    )
