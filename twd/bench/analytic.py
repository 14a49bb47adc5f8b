"""The speed that costs and acceptance allow, in closed form; measurements are compared with it."""

from collections.abc import Callable
from dataclasses import dataclass

Cost = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class SpeculationSetting:
    """Times in ms: a pass over n rows, a drafted token, the round trip; and the chance that a draft is accepted."""

    cost: Cost
    token_ms: float
    acceptance: float
    round_trip_ms: float = 0.0
    window_max: int = 32


def plain_rate(setting: SpeculationSetting) -> float:
    """Return tokens per ms without drafts."""
    return 1.0 / setting.cost(1)


def expected_tokens(acceptance: float, drafts: int) -> float:
    """Return the expected tokens from a window with this many drafts, the target's own token included."""
    if acceptance >= 1.0:
        return drafts + 1.0
    return (1.0 - acceptance ** (drafts + 1)) / (1.0 - acceptance)


def round_rate(setting: SpeculationSetting, drafts: int) -> float:
    """Return tokens per ms when drafting and verifying take turns."""
    spent = drafts * setting.token_ms + setting.round_trip_ms + setting.cost(drafts + 1)
    return expected_tokens(setting.acceptance, drafts) / spent


def best_round(setting: SpeculationSetting) -> tuple[int, float]:
    """Return the best number of drafts for taking turns, and its rate; 0 drafts if none pays."""
    rates = {0: plain_rate(setting)} | {k: round_rate(setting, k) for k in range(1, setting.window_max + 1)}
    best = max(rates, key=lambda k: rates[k])
    return best, rates[best]


def continuous_rate(setting: SpeculationSetting, first: int = 1) -> float:
    """Return tokens per ms when the drafter runs in parallel with the target's passes.

    A run up to the next rejection yields 1/(1-a) tokens. It costs the round trip and the first drafts once, then
    windows whose drafting and verifying overlap.
    """
    a = setting.acceptance
    width = steady_width(setting)
    steady_ms = max(setting.cost(width + 1), (width + 1) * setting.token_ms)
    if a >= 1.0:
        return (width + 1) / steady_ms
    windows = a ** (first + 1) / (1.0 - a ** (width + 1))
    run_ms = setting.round_trip_ms + first * setting.token_ms + setting.cost(first + 1) + windows * steady_ms
    return 1.0 / (1.0 - a) / run_ms


def best_continuous(setting: SpeculationSetting) -> float:
    """Return the best rate of continuous drafting, plain decoding included."""
    rates = [continuous_rate(setting, first) for first in range(1, setting.window_max + 1)]
    return max(plain_rate(setting), *rates)


def steady_width(setting: SpeculationSetting) -> int:
    """Return the window size at which one window is drafted while another one is verified."""
    width = 1
    while width < setting.window_max and setting.cost(width + 1) > (width + 1) * setting.token_ms:
        width += 1
    return width
