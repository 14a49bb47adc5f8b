"""How much to check now, and whether to wait for more: plain arithmetic on measured costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from twd.drafting.undo_cost import UndoCost
from twd.drafting.window_value import Cost, best_cut, held_in_a_row

PAYS = 1.02
WORKS = 1.05
"""By how much a drafter at work must bring more than plain steps: its messages take time from whoever computes."""
EAGER = 1.12
"""By how much more than the usual a wait must bring: played, this was best for passes of 8 to 200 ms."""


def expected_tokens(chance: float, drafts: int) -> float:
    """How many of so many drafts will hold, each with this chance if those before it do."""
    return chance * (1.0 - chance**drafts) / (1.0 - chance) if chance < 1.0 else float(drafts)


def common_width(chances: Sequence[Sequence[float]], cost: Cost, limit: int, undo: UndoCost | None = None) -> int:
    """The width of window, the same for all sessions of a pass, at which the pass yields most per millisecond.

    Windows of unequal width would make the engine run the same weights more than once.
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
    """What saving the states of all sessions costs, and loading those whose drafts do not all hold."""
    cuts = [path[: width - 1] for path in chances]
    return sum(undo.extra_ms(cut[-1], 1.0 + sum(cut), cost) for cut in cuts if cut)


@dataclass(frozen=True, slots=True)
class ExpectedDrafts:
    """What a drafter is expected to bring next: when, how fast, and how good."""

    first_ms: float
    token_ms: float
    chance: float
    tokens: int


def worth_waiting(
    chances: Sequence[float], cost: Cost, waited_ms: float, coming: ExpectedDrafts, usual_rate: float = 0.0
) -> bool:
    """Whether the next drafts bring more tokens into this pass than the time until they are here is worth.

    It is worth what this pass yields without them, or what the text usually comes at if that is more: what is guessed
    while the pass is under way is checked by the next one.
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
    """How far a drafter should run ahead; 0 when its guesses cannot pay.

    A drafter `beside` the target shares its cores, so its time is the target's time and it should
    draft one `window` and rest. One elsewhere never rests: it drafts through the pass and the way back, up to `ahead`.
    """
    chances = held_in_a_row(chance, window)
    if beside:
        return _beside_credit(chances, cost, token_ms)
    cut, rate = best_cut(chances, cost)
    if not cut or rate * cost(1) < WORKS:
        return 0
    on_its_way = (cost(cut + 1) + round_trip_ms) / max(token_ms, 0.1)
    return min(max(window, ahead), cut + int(on_its_way) + 1)


def _beside_credit(chances: Sequence[float], cost: Cost, token_ms: float) -> int:
    cut, rate = _best_turn(chances, cost, token_ms)
    return cut if rate > WORKS / cost(1) else 0


def _best_turn(chances: Sequence[float], cost: Cost, token_ms: float) -> tuple[int, float]:
    """The cut, and its rate, where guesses are made before the pass, on the same cores."""
    expected = 1.0
    best, best_rate = 0, 0.0
    for i, chance in enumerate(chances):
        expected += chance
        rate = expected / ((i + 1) * token_ms + cost(i + 2))
        if rate > best_rate:
            best, best_rate = i + 1, rate
    return best, best_rate


def predicted_rate(
    cost: Cost, chance: float, token_ms: float, round_trip_ms: float, beside: bool, window: int
) -> float:
    """Tokens per millisecond with such a drafter alone. One elsewhere drafts while passes are under way, and is heard
    of a round trip later whenever it was wrong."""
    if beside:
        return _best_turn(held_in_a_row(chance, window), cost, token_ms)[1]
    rates = (
        (1 + expected_tokens(chance, cut)) / max(cost(cut + 1), cut * token_ms)
        for cut in range(min(1, window), window + 1)
    )
    return 1.0 / (1.0 / max(rates) + (1.0 - chance) * round_trip_ms)
