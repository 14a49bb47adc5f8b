"""Decides where in a prompt to save the recurrent state, and which saved states to keep. Never reads their bytes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from twd.engine.context import SavedState

PER_SLOT = 8
"""The most checkpoints of one slot."""
_APART = 64
"""The least distance between checkpoints in tokens. Nearer ones are not worth their memory and the extra pass."""
_LAST_MESSAGES = 3
_FIRST_DISTANCE = 256


@dataclass(slots=True)
class Checkpoint:
    """The state of a slot after its first `position` tokens."""

    position: int
    state: SavedState
    used_at: int = 0


@dataclass(slots=True)
class Checkpoints:
    """The saved states of all slots of one context, at most `bytes_max` bytes together."""

    bytes_max: int
    _slots: dict[int, list[Checkpoint]] = field(default_factory=dict)
    _clock: int = 0

    @property
    def bytes_held(self) -> int:
        """The memory they take now, in bytes."""
        return sum(one.state.nbytes for held in self._slots.values() for one in held)

    def add(self, slot: int, position: int, state: SavedState) -> None:
        """Keep a state. If there is no room, those with the least worth are dropped."""
        held = self._slots.setdefault(slot, [])
        held[:] = [one for one in held if one.position != position]
        held.append(Checkpoint(position, state, self._tick()))
        held.sort(key=lambda one: one.position)
        while len(held) > PER_SLOT:
            self._drop(slot, self._cheapest([slot]))
        while self.bytes_held > self.bytes_max:
            number, one = min(
                ((number, self._cheapest([number])) for number in self._slots if self._slots[number]),
                key=lambda pair: self._worth(*pair),
            )
            self._drop(number, one)

    def best(self, slot: int, position: int) -> Checkpoint | None:
        """The latest saved state of a slot at or before `position`; None if there is none."""
        fit = [one for one in self._slots.get(slot, ()) if one.position <= position]
        return fit[-1] if fit else None

    def use(self, slot: int, position: int) -> Checkpoint | None:
        """The same, and mark it as used now."""
        found = self.best(slot, position)
        if found is not None:
            found.used_at = self._tick()
        return found

    def forget(self, slot: int, beyond: int) -> None:
        """Drop the states of a slot after position `beyond`, because other tokens are there now."""
        self._slots[slot] = [one for one in self._slots.get(slot, ()) if one.position <= beyond]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _cheapest(self, slots: Sequence[int]) -> Checkpoint:
        pairs = [(slot, one) for slot in slots for one in self._slots[slot]]
        return min(pairs, key=lambda pair: self._worth(*pair))[1]

    def _worth(self, slot: int, one: Checkpoint) -> float:
        """How many tokens it saves from being computed again, divided by the time since it was last used."""
        before = [other.position for other in self._slots[slot] if other.position < one.position]
        return (one.position - max(before, default=0)) / (1 + self._clock - one.used_at)

    def _drop(self, slot: int, one: Checkpoint) -> None:
        self._slots[slot] = [other for other in self._slots[slot] if other is not one]


def stops(prompt: Sequence[int], cached: int, parted: int, marks: Collection[int], row: int) -> list[int]:
    """The positions at which to save the state while computing the rest of a prompt with `cached` tokens in the cache.

    These are: borders of messages (at their control tokens); `parted`, where this prompt differs from an earlier one
    (others will probably differ there, too); and 256, 512, 1024, ... tokens before the end, rounded down to whole
    passes of `row` tokens.
    """
    end = len(prompt) - 1
    borders = [at for at in range(cached, end) if prompt[at] in marks]
    wanted = _last_apart(borders, end) + borders[:1] + [at for at in borders if at >= _APART][:1] + [parted]
    distance = _FIRST_DISTANCE
    while distance < end - cached:
        wanted.append(cached + (end - distance - cached) // row * row)
        distance *= 2
    return _thinned(wanted, cached, end)


def _last_apart(borders: Sequence[int], end: int) -> list[int]:
    """The borders at which the last messages begin; of borders close together, the last one."""
    found: list[int] = []
    for at in reversed(borders):
        if len(found) == _LAST_MESSAGES:
            break
        if not found or found[-1] - at >= _APART:
            found.append(at)
    return found


def _thinned(wanted: Sequence[int], cached: int, end: int) -> list[int]:
    """The wanted positions in ascending order, without those too close to one earlier in the list or to `cached`."""
    kept: list[int] = []
    for at in wanted:
        if cached < at < end + 1 and all(abs(at - other) >= _APART for other in (*kept, cached)):
            kept.append(at)
    return sorted(kept[:PER_SLOT])
