"""Calibrations and audits played with known error rates: how often a bound that was proved does not hold.

python contrib/benchmarks/judges/bounds.py
"""

import math
import random

import numpy as np

from twd.drafting.betting import ALPHA, log_stake
from twd.gate.calibration.search import Observation, calibrate, parts_of, rate_at, roc
from twd.gate.verdict import Rule

CALIBRATIONS, SPLITS = 1000, 200
STREAMS, AUDITS, BOUND = 10_000, 2_000, 0.05
SETS = ((0.08, 0.8), (0.2, 2.0), (0.3, 3.0))
"""Error rate of a member's answers, and by how much wrong ones fit worse."""


def answers(count: int, dice: random.Random, error: float, sharp: float) -> list[Observation]:
    """Answers of a member of which this part is wrong."""
    seen = []
    for number in range(count):
        wrong = dice.random() < error
        seen.append(Observation(f"c{number}", (dice.gammavariate(2.0, 1.0) + sharp * wrong,), wrong))
    return seen


def exceeding(error: float, sharp: float) -> tuple[float, float]:
    """The share of calibrations whose rule is wrong more often than was proved, and of those that found a rule."""
    dice = random.Random(11)
    truth = answers(100_000, dice, error, sharp)
    values = np.array([one.gaps[0] for one in truth])
    wrong = np.array([one.wrong for one in truth])
    found = [calibrate(answers(600, dice, error, sharp), BOUND, salt=str(n)).rule for n in range(CALIBRATIONS)]
    rules = [rule for rule in found if rule is not None]
    rates = [wrong[values <= rule.tolerance].mean() for rule in rules]
    return float(np.mean([rate > BOUND for rate in rates])) * len(rules) / CALIBRATIONS, len(rules) / CALIBRATIONS


def share_of_hindsight(error: float, sharp: float) -> float:
    """What the chosen threshold passes beside the loosest that, looking back, would have kept the bound."""
    dice = random.Random(12)
    seen = answers(1800, dice, error, sharp)
    shares = []
    for split in range(SPLITS):
        found = calibrate(seen, BOUND, salt=str(split))
        report = parts_of(seen, str(split))[2]
        best = max(
            (rate_at(report, Rule("token", value)) for value, _, _ in roc(report, "token")[::10]),
            key=lambda one: one.passes * (one.rate <= BOUND),
        )
        shares.append(found.held_out.passes / max(1, best.passes))
    return float(np.median(shares))


def boundary() -> np.ndarray:
    """For each number of audits, so many errors show that the rate is too high."""
    least, found = 0, np.zeros(AUDITS, dtype=np.int64)
    for count in range(1, AUDITS + 1):
        while least <= count and log_stake(count, least, BOUND) < -math.log(ALPHA):
            least += 1
        found[count - 1] = least
    return found


def closed(rate: float, streams: int) -> tuple[float, float]:
    """The share of streams of audits that ever close, and after how many audits half of them have."""
    dice, limits = np.random.default_rng(13), boundary()
    times = np.full(streams, AUDITS + 1)
    for start in range(0, streams, 1000):
        errors = (dice.random((min(1000, streams - start), AUDITS)) < rate).cumsum(axis=1)
        over = errors >= limits
        ever = over.any(axis=1)
        times[start : start + len(errors)][ever] = over.argmax(axis=1)[ever] + 1
    return float((times <= AUDITS).mean()), float(np.median(times))


def main() -> None:
    """Print all figures."""
    for error, sharp in SETS:
        over, found = exceeding(error, sharp)
        print(f"calibrations, {error:.0%} wrong, {sharp} apart: {over:.1%} exceed their bound, {found:.0%} find a rule")
    for error, sharp in SETS[1:]:
        print(
            f"passes beside hindsight, {error:.0%} wrong: {share_of_hindsight(error, sharp):.2f} (median of {SPLITS})"
        )
    share, _ = closed(BOUND, STREAMS)
    print(f"audits at the bound: {share:.1%} of {STREAMS} streams of {AUDITS} close")
    _, half = closed(3 * BOUND, STREAMS)
    print(f"audits at three times the bound: half close within {half:.0f}")


if __name__ == "__main__":
    main()
