"""Which slot serves a new prompt: the one that remembers most of it, at least loss to the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.wire.failures import FailureCode, TwdError
from twd.wire.prefix import common_prefix

_COPY_FROM = 64
_CELLS_PER_TOKEN = 256
"""A copy moves all cells of a slot, which takes about as long as feeding one token for so many of them."""


@dataclass(slots=True)
class Slot:
    """One sequence of the context: the tokens in its KV cache, and whether a session uses it."""

    number: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """Where a prompt goes: `common` of its tokens are there, or can be copied from slot `source`."""

    slot: int
    common: int
    source: int | None = None
    alike: int = 0
    """How many tokens a slot has in common with the prompt, whether or not it can go back to them."""


class Slots:
    """Pure bookkeeping; the caller moves the KV cells accordingly."""

    def __init__(
        self, count: int, copy_from: int | None = None, reach: Callable[[int, int], int] = lambda slot, common: common
    ) -> None:
        """`copy_from`: how many tokens a copy from another slot must save to be worth it; None: never copy.

        `reach` tells to which token a slot can go back, at most the given one.
        """
        self._reach = reach
        self._slots = [Slot(number) for number in range(count)]
        self._copy_from = copy_from
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def open(self, prompt: Sequence[int], whole_only: bool = False) -> SlotChoice:
        """Take the best idle slot for a prompt; `whole_only` reuses a slot only if all its tokens begin the prompt.

        The last token of a prompt is never taken from the cache: its logits are wanted.
        """
        place = self.choose(prompt, whole_only)
        slot = self._slots[place.slot]
        slot.tokens = list(prompt[: place.common])
        slot.busy = True
        self._touch(slot)
        return place

    def close(self, number: int) -> None:
        """The session is over; its tokens stay for the next one that begins alike."""
        slot = self._slots[number]
        slot.busy = False
        self._touch(slot)

    def choose(self, prompt: Sequence[int], whole_only: bool = False) -> SlotChoice:
        """Where `prompt` would go."""
        idle = [slot for slot in self._slots if not slot.busy]
        if not idle:
            raise TwdError(FailureCode.BUSY, f"all {len(self._slots)} sessions of this model are in use; try again")
        alike = {slot.number: common_prefix(slot.tokens, prompt[:-1]) for slot in self._slots}
        common = {slot.number: self._reusable(slot, alike[slot.number], whole_only) for slot in self._slots}
        most = max(alike.values())
        home = max(idle, key=lambda slot: (self._worth(slot, common[slot.number]), -slot.used_at, -slot.number))
        source = max(self._slots, key=lambda slot: common[slot.number])
        gain = common[source.number] - common[home.number]
        if self._copy_from is not None and not whole_only and gain >= max(self._copy_from, 1):
            return SlotChoice(home.number, common[source.number], source.number, most)
        return SlotChoice(home.number, common[home.number], None, most)

    def _worth(self, slot: Slot, common: int) -> int:
        """A shared beginning alone must not cost a long conversation: what would mostly be lost counts as nothing."""
        return common if 2 * common >= len(slot.tokens) else 0

    def _reusable(self, slot: Slot, alike: int, whole_only: bool) -> int:
        return 0 if whole_only and alike < len(slot.tokens) else self._reach(slot.number, alike)

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock


def worth_copying(ctx_size: int) -> int:
    """How many tokens a copy from another slot must save."""
    return max(_COPY_FROM, ctx_size // _CELLS_PER_TOKEN)
