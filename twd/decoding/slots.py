"""Chooses the slot for a new prompt: the one that holds most of it, without losing much of another text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from twd.wire.failures import FailureCode, TwdError
from twd.wire.prefix import common_prefix

_LEAST_SAVED: Final = 16
"""A copy must save at least so many tokens."""
_CELLS_PER_TOKEN: Final = 256
"""Copying this many KV cells takes about as long as computing one token."""
_SAVED_CELLS: Final = 4
"""Saving a cell and loading it again takes as long as copying so many."""
_SAVED_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class CopyCost:
    """What it costs to copy a slot to another one: all of its cells, or only those that hold tokens."""

    cells: int
    """Cells of a whole slot; 0: a copy moves none."""
    cell_bytes: int = 0
    """Bytes of a cell in this machine's memory; 0: cells cannot be saved and loaded here."""

    def saves_cells(self, held: int) -> bool:
        """Returns whether the cells of a slot with so many tokens are saved and loaded, and not the whole slot
        copied."""
        return 0 < held * self.cell_bytes <= _SAVED_BYTES_MAX and held * _SAVED_CELLS < self.cells

    def least_saved(self, held: int) -> int:
        """Returns how many tokens a copy of a slot with so many tokens must save to be worth it."""
        cells = held * _SAVED_CELLS if self.saves_cells(max(held, 1)) else self.cells
        return max(_LEAST_SAVED, cells // _CELLS_PER_TOKEN)


@dataclass(slots=True)
class Slot:
    """One sequence of the context: the tokens in its KV cache, and whether a session uses it."""

    number: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """The slot for a prompt. `common` tokens of the prompt are in its cache, or can be copied from slot `source`."""

    slot: int
    common: int
    source: int | None = None
    alike: int = 0
    """The most tokens that any slot has in common with the prompt, also if the slot cannot roll back to them."""


class Slots:
    """Keeps track of slots and their tokens. The caller must move the KV cells accordingly."""

    def __init__(
        self,
        count: int,
        least_saved: Callable[[int], int] | None = None,
        reach: Callable[[int, int], int] = lambda slot, common: common,
    ) -> None:
        """`least_saved`: how many tokens a copy must save, by the tokens of the slot that is copied; None: never copy.

        `reach(slot, position)`: the position to which a slot can roll back, at most the given one.
        """
        self._reach = reach
        self._slots = [Slot(number) for number in range(count)]
        self._least_saved = least_saved
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def open(self, prompt: Sequence[int], whole_only: bool = False) -> SlotChoice:
        """Take the best idle slot for a prompt. With `whole_only`, a slot is reused only if the prompt begins with all
        its tokens.

        The last token of a prompt is never taken from the cache, because its logits are needed.
        """
        place = self.choose(prompt, whole_only)
        slot = self._slots[place.slot]
        slot.tokens = list(prompt[: place.common])
        slot.busy = True
        self._touch(slot)
        return place

    def close(self, number: int) -> None:
        """End the session. Its tokens stay for the next prompt with the same beginning."""
        slot = self._slots[number]
        slot.busy = False
        self._touch(slot)

    def choose(self, prompt: Sequence[int], whole_only: bool = False) -> SlotChoice:
        """The choice for `prompt`, without taking the slot; raises BUSY if no slot is idle."""
        idle = [slot for slot in self._slots if not slot.busy]
        if not idle:
            raise TwdError(FailureCode.BUSY, f"all {len(self._slots)} sessions of this model are in use; try again")
        alike = {slot.number: common_prefix(slot.tokens, prompt[:-1]) for slot in self._slots}
        common = {slot.number: self._reusable(slot, alike[slot.number], whole_only) for slot in self._slots}
        most = max(alike.values())
        home = max(idle, key=lambda slot: (self._worth(slot, common[slot.number]), -slot.used_at, -slot.number))
        source = max(self._slots, key=lambda slot: (common[slot.number], -len(slot.tokens)))
        gain = common[source.number] - common[home.number]
        if self._least_saved is not None and not whole_only and gain >= max(self._least_saved(len(source.tokens)), 1):
            return SlotChoice(home.number, common[source.number], source.number, most)
        return SlotChoice(home.number, common[home.number], None, most)

    def _worth(self, slot: Slot, common: int) -> int:
        """`common`, or 0 if the slot would lose more than half of its tokens. So a short shared beginning does not
        overwrite a long conversation."""
        return common if 2 * common >= len(slot.tokens) else 0

    def _reusable(self, slot: Slot, alike: int, whole_only: bool) -> int:
        return 0 if whole_only and alike < len(slot.tokens) else self._reach(slot.number, alike)

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock
