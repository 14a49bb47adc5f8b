"""Drafters that offer themselves: what they are taken for, why one is refused, and who of them is still here."""

from collections.abc import Collection
from typing import Final

import msgspec

from twd.drafting.calibration import Calibration
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId
from twd.wire.draft import DrafterAttached, DrafterChecked, DrafterPace
from twd.wire.model import ModelFacts

AWAY_MAX: Final = 64


class DrafterRegistry:
    """By their leases: one whose lease is gone is away, and when the lease comes back so does the drafter."""

    def __init__(self) -> None:
        self._here: dict[InstanceId, AttachedDrafter] = {}
        self._away: dict[InstanceId, AttachedDrafter] = {}

    def __len__(self) -> int:
        return len(self._here) + len(self._away)

    @property
    def here(self) -> set[InstanceId]:
        """Who is counted on."""
        return set(self._here)

    def take(self, drafter: AttachedDrafter) -> bool:
        """One offers itself; whether it is new."""
        new = drafter.name not in self._here and drafter.name not in self._away
        self._away.pop(drafter.name, None)
        self._here[drafter.name] = drafter
        return new

    def left(self, name: InstanceId) -> None:
        """It said so."""
        self._here.pop(name, None)
        self._away.pop(name, None)

    def lost(self, name: InstanceId) -> None:
        """Its lease is gone: it is dead, or cut off."""
        drafter = self._here.pop(name, None)
        if drafter is None:
            return
        self._away[name] = drafter
        if len(self._away) > AWAY_MAX:
            del self._away[next(iter(self._away))]

    def returned(self, alive: Collection[InstanceId]) -> list[AttachedDrafter]:
        """Who was away and has a lease again."""
        back = [drafter for name, drafter in self._away.items() if name in alive]
        for drafter in back:
            self.take(drafter)
        return back


def taken_for(event: DrafterAttached, facts: ModelFacts, *, beside: bool) -> AttachedDrafter:
    """A drafter, as the target's side sees it."""
    return AttachedDrafter(
        name=event.drafter,
        node=event.node,
        beside=beside,
        model=event.model,
        architecture=event.vocab.architecture,
        by_text=event.vocab.hash != facts.vocab.hash,
        token_ms=event.token_ms or 5.0,
        plan=event.plan,
    )


def refusal(event: DrafterAttached, facts: ModelFacts) -> DrafterChecked | None:
    """Why its guesses cannot be used."""
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


def pace_of(drafter: AttachedDrafter, record: Calibration | None) -> str:
    """What was measured of a drafter, for a lease."""
    pace = DrafterPace(
        drafter=drafter.name,
        model=drafter.model,
        token_ms=round(drafter.token_ms, 3),
        lead_ms=round(drafter.lead_ms, 3),
        agreement=round(record.agreement, 4) if record else 0.0,
        compared=int(record.weight) if record else 0,
        beside=drafter.beside,
        by_text=drafter.by_text,
    )
    return msgspec.json.encode(pace).decode()
