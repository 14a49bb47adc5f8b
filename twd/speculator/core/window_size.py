"""How many drafts to verify now, and whether to wait for more, computed from measured costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from twd.drafting.undo_cost import UndoCost
from twd.drafting.window_value import Cost, best_cut, held_in_a_row

PAYS = 1.02
WORKS = 1.05
"""A drafter must bring this many times the rate of plain steps: handling its messages also costs time."""
FLOOR_LEAST, FLOOR_MOST = 0.3, 0.85
EAGER = 1.12
"""A wait must bring this many times the usual rate. In simulations this was best for passes of 8 to 200 ms."""


def expected_tokens(chance: float, drafts: int) -> float:
    """Returns the expected number of accepted drafts out of `drafts`; `chance` is the chance of each if those before
    it are accepted."""
    return chance * (1.0 - chance**drafts) / (1.0 - chance) if chance < 1.0 else float(drafts)


def common_width(chances: Sequence[Sequence[float]], cost: Cost, limit: int, undo: UndoCost | None = None) -> int:
    """Returns the window width, the same for all sessions of a pass, with the most tokens per millisecond.

    Windows of unequal width would make the engine read the same weights more than once.
    """
    sessions = len(chances)
    expected = float(sessions)
    best, best_rate = 1, expected / cost(sessions)
    for width in range(2, limit + 2):
        gained = sum(path[width - 2] for path in chances if len(path) >= width - 1)
        if not gained:
            break
        expected += gained
        extra_ms = undo_ms(chances, cost, width, undo) if undo is not None else 0.0
        rate = expected / (cost(sessions * width) + extra_ms)
        if rate > best_rate * PAYS:
            best, best_rate = width, rate
    return best


def undo_ms(chances: Sequence[Sequence[float]], cost: Cost, width: int, undo: UndoCost) -> float:
    """Returns the milliseconds to save the states of all sessions, and to load those whose drafts are not all
    accepted."""
    cuts = [path[: width - 1] for path in chances]
    return sum(undo.extra_ms(cut[-1], 1.0 + sum(cut), cost) for cut in cuts if cut)


@dataclass(frozen=True, slots=True)
class ExpectedDrafts:
    """What a drafter is expected to bring next: milliseconds until the first draft and for each more, the chance of
    each, and how many."""

    first_ms: float
    token_ms: float
    chance: float
    tokens: int


def worth_waiting(
    chances: Sequence[float], cost: Cost, waited_ms: float, coming: ExpectedDrafts, usual_rate: float = 0.0
) -> bool:
    """Returns whether the next drafts bring more tokens into this pass than the waiting time is worth.

    The time is worth what this pass yields without them, or the usual rate if that is higher: drafts made during this
    pass are verified by the next one.
    """
    cut, rate = best_cut(chances, cost, waited_ms)
    if cut < len(chances) or coming.tokens <= 0:
        return False
    worth = max(PAYS * rate, EAGER * usual_rate)
    held, gained = chances[-1] if chances else 1.0, 0.0
    rows = len(chances) + 1
    wait, now = coming.first_ms, cost(rows)
    for _ in range(coming.tokens):
        held *= coming.chance
        gained += held
        rows += 1
        if gained > worth * (wait + cost(rows) - now):
            return True
        wait += coming.token_ms
    return False


def useful_credit(
    cost: Cost, chance: float, token_ms: float, round_trip_ms: float, beside: bool, window: int, ahead: int = 0
) -> int:
    """Returns the credit of a drafter in tokens; 0: its drafts cannot pay.

    A drafter `beside` the target shares its cores, so its time and the round trip are the target's time: it drafts one
    `window` and rests. A drafter elsewhere never rests: it drafts during the pass and the way back, up to `ahead`
    tokens.
    """
    chances = held_in_a_row(chance, window)
    if beside:
        return _beside_credit(chances, cost, token_ms, round_trip_ms)
    cut, rate = best_cut(chances, cost)
    if not cut or rate * cost(1) < WORKS:
        return 0
    on_its_way = (cost(cut + 1) + round_trip_ms) / max(token_ms, 0.1)
    return min(max(window, ahead), cut + int(on_its_way) + 1)


def _beside_credit(chances: Sequence[float], cost: Cost, token_ms: float, round_trip_ms: float) -> int:
    cut, rate = _best_turn(chances, cost, token_ms, round_trip_ms)
    return cut if rate > WORKS / cost(1) else 0


def _best_turn(chances: Sequence[float], cost: Cost, token_ms: float, round_trip_ms: float) -> tuple[int, float]:
    """Returns the best number of drafts, and its tokens per millisecond, where drafts are made before the pass on the
    same cores, and the target waits for them to come."""
    expected = 1.0
    best, best_rate = 0, 0.0
    for i, chance in enumerate(chances):
        expected += chance
        rate = expected / (round_trip_ms + (i + 1) * token_ms + cost(i + 2))
        if rate > best_rate:
            best, best_rate = i + 1, rate
    return best, best_rate


def draft_price(cost: Cost, chance: float, token_ms: float, round_trip_ms: float, window: int) -> float:
    """Returns the tokens that the best turns yield in the time that one draft more and its row take, where drafts are
    made on the target's cores."""
    cut, rate = _best_turn(held_in_a_row(chance, window), cost, token_ms, round_trip_ms)
    return rate * (token_ms + max(0.0, cost(cut + 2) - cost(cut + 1)))


def least_chance(cost: Cost, chance: float, token_ms: float, round_trip_ms: float, window: int) -> float:
    """Returns the chance of holding under which a drafter beside the target rests: a draft that is less sure than its
    price is not made."""
    return min(FLOOR_MOST, max(FLOOR_LEAST, draft_price(cost, chance, token_ms, round_trip_ms, window)))


def predicted_rate(
    cost: Cost, chance: float, token_ms: float, round_trip_ms: float, beside: bool, window: int
) -> float:
    """Returns the expected tokens per millisecond with this drafter alone. A drafter elsewhere drafts during passes;
    after a wrong draft its next one comes a round trip later."""
    if beside:
        return _best_turn(held_in_a_row(chance, window), cost, token_ms, round_trip_ms)[1]
    rates = (
        (1 + expected_tokens(chance, cut)) / max(cost(cut + 1), cut * token_ms)
        for cut in range(min(1, window), window + 1)
    )
    return 1.0 / (1.0 / max(rates) + (1.0 - chance) * round_trip_ms)
