"""The model's own head on the output stage: it reads what is kept of each window, and guesses what follows."""

from dataclasses import dataclass

import msgspec

from twd.decoding.window import VerifyResult
from twd.engine.heads.seat import HeadSeat
from twd.ring.frames import ItemOutcome, WindowItem
from twd.stage.core import OutputStage


@dataclass(frozen=True, slots=True)
class PassPlace:
    """Where the tokens of a window stand in the last pass."""

    rows: int
    """All tokens of the pass."""
    start: int


def read_and_guess(
    head: HeadSeat, texts: OutputStage, item: WindowItem, outcome: ItemOutcome, at: PassPlace, *, follows: bool
) -> tuple[ItemOutcome, float]:
    """Return the outcome of a window with the head's guesses behind it, and the milliseconds that the head took.

    `follows`: the next window of this session is here already, so guesses would come too late if all is kept.
    """
    kept = item.tokens[: outcome.standing]
    spent_ms = head.read(item.slot, item.at, kept, at.rows, at.start)
    sampler = texts.guessed(item, outcome)
    if sampler is None or (follows and len(kept) == len(item.tokens)):
        return outcome, spent_ms
    found = VerifyResult(item.slot, item.epoch, item.at)
    head.guess(found, [*texts.text(item.slot), outcome.tokens[-1]], item.guesses, sampler, item.least)
    return msgspec.structs.replace(outcome, guesses=found.guesses, sure=found.sure), spent_ms + found.aside_ms
