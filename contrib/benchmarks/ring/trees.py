"""Would trees of guesses pay over a ring? Played: the best chain of windows beside the best tree, at the same links.

    .venv/bin/python contrib/benchmarks/ring/trees.py

Windows have a fixed width and a fixed number of them is in flight; the best of many such settings counts, on either
side. In a tree, the first places of each window also carry a second guess, with some rows behind each other. Where the
first guess is wrong the second one is right with the chance `--second`, and those behind it as often as all guesses.
Played in favour of trees: to go over to a side branch costs nothing, and one cache holds all branches.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterator
from statistics import mean

from twd.bench.pipeline import FixedRing, PassInFlight, PipelineSpec

SEEDS = (1, 2)
WIDTHS = (1, 2, 3, 4, 6, 8, 12)
IN_FLIGHT = (1, 2, 4, 8)
SIDES = ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2), (2, 4))
TOKENS = 192
STAGES: dict[str, Callable[[int], float]] = {
    "CPU, float weights": lambda rows: 4.2 + 1.45 * rows if rows > 2 else 5.0 + 0.6 * (rows - 1),
    "CPU, 4-bit weights": lambda rows: 5.0 + 0.7 * (rows - 1),
    "GPU": lambda rows: 5.0 + 0.05 * (rows - 1),
}
"""Milliseconds of a pass at each of two stages."""


class TreeRing(FixedRing):
    """The same with a second guess at the first places of each window."""

    def __init__(
        self,
        line: PipelineSpec,
        wrong: float,
        width: int,
        in_flight: int,
        seed: int,
        side: tuple[int, int],
        second: float,
    ) -> None:
        self._places, self._depth = min(side[0], width), side[1]
        rows = self._places * self._depth
        stages = tuple(lambda own, stage=stage: stage(own + rows) for stage in line.stages)
        super().__init__(PipelineSpec(stages, line.link_ms), wrong, width, in_flight, TOKENS, seed)
        self._chance, self._right, self._second = random.Random(seed), 1.0 - wrong, second

    def _answered(self, one: PassInFlight) -> None:
        before = self._epoch
        super()._answered(one)
        if self._epoch == before:
            return
        held = len(one.verdicts[0].path)
        if held < len(one.windows[0].tokens) and held <= self._places and self._chance.random() < self._second:
            self._known += 1 + sum(1 for _ in self._held())
            self._next = self._known - 1

    def _held(self) -> Iterator[int]:
        """The rows behind the second guess, as far as they hold."""
        return itertools.takewhile(lambda _: self._chance.random() < self._right, range(self._depth - 1))


def best(rates: Iterator[tuple[float, str]]) -> tuple[float, str]:
    """The quickest of some settings."""
    return max(rates)


def chains(line: PipelineSpec, wrong: float) -> Iterator[tuple[float, str]]:
    """Windows without side branches."""
    for width, flying in itertools.product(WIDTHS, IN_FLIGHT):
        rates = [FixedRing(line, wrong, width, flying, TOKENS, seed).run().rate for seed in SEEDS]
        yield mean(rates), f"{flying} of {width}"


def trees(line: PipelineSpec, wrong: float, second: float) -> Iterator[tuple[float, str]]:
    """Windows with them."""
    for width, flying, side in itertools.product(WIDTHS, IN_FLIGHT, SIDES):
        if side[0] <= width:
            rates = [TreeRing(line, wrong, width, flying, seed, side, second).run().rate for seed in SEEDS]
            yield mean(rates), f"{flying} of {width} + {side[0]} x {side[1]}"


def main(args: argparse.Namespace) -> None:
    """One table."""
    print(f"{args.wrong:.0%} of first guesses wrong, second guesses right in {args.second:.0%} of these cases\n")
    print(
        "| stages | RTT ms | chain tok/s | its windows | tree tok/s | its windows | ratio |"
        "\n|---|---|---|---|---|---|---|"
    )
    for (name, stage), rtt_ms in itertools.product(STAGES.items(), args.rtts):
        line = PipelineSpec((stage, stage), rtt_ms / 2)
        chain, chain_told = best(chains(line, args.wrong))
        tree, tree_told = best(trees(line, args.wrong, args.second))
        row = f"| {name} | {rtt_ms:g} | {chain:.0f} | {chain_told} | {tree:.0f} | {tree_told} | {tree / chain:.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrong", type=float, default=0.25)
    parser.add_argument("--second", type=float, default=0.45)
    parser.add_argument("--rtts", type=float, nargs="+", default=[0.0, 10.0, 20.0, 50.0])
    main(parser.parse_args())
