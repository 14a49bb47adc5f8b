"""What windows in flight can bring where passes cost so much, and what the deciders make of it: in played time.

    .venv/bin/python contrib/benchmarks/ring/played.py --passes 2:16.5,4:18.1,8:25.6,16:37.9,64:113

`--passes` are milliseconds of a pass by its rows at each stage, as `contrib/benchmarks/engine/passes.py` measures them.
"One" is the best width with one window in flight, "fixed" the best of many widths and numbers in flight, both chosen
with hindsight; "own" are the real deciders, which have to find out.
"""

import argparse
import itertools
from collections.abc import Callable
from itertools import pairwise
from statistics import mean

from twd.bench.pipeline import FixedRing, PipelineSpec
from twd.bench.rates import rate_together
from twd.bench.ring.simulated import SimulatedRing

SEEDS = (1, 2, 3)
WIDTHS = (2, 3, 4, 5, 6, 8, 12, 16)
IN_FLIGHT = (2, 3, 4)
SESSIONS = (1, 2, 4, 8)


def pace(points: list[tuple[int, float]]) -> Callable[[int], float]:
    """Straight lines between points; beyond the last one the last goes on."""

    def ms(rows: int) -> float:
        rows = max(rows, points[0][0])
        for (less, fewer_ms), (more, more_ms) in pairwise(points):
            if rows <= more or more == points[-1][0]:
                return fewer_ms + (more_ms - fewer_ms) * (rows - less) / (more - less)
        return points[0][1]

    return ms


def fixed(line: PipelineSpec, wrong: float, width: int, flying: int, tokens: int) -> float:
    """Tokens per second with windows of this width, so many of them in flight."""
    return mean(FixedRing(line, wrong, width, flying, tokens, seed).run().rate for seed in SEEDS)


def row(line: PipelineSpec, rtt_ms: float, wrong: float, tokens: int) -> str:
    """One line of the table."""
    one = max(fixed(line, wrong, width, 1, tokens) for width in WIDTHS)
    best = max(fixed(line, wrong, width, flying, tokens) for width, flying in itertools.product(WIDTHS, IN_FLIGHT))
    own = [SimulatedRing(line, wrong, tokens=tokens, seed=seed).run() for seed in SEEDS]
    rate, waste = mean(ring.rate for ring in own), mean(ring.waste for ring in own)
    return (
        f"| {rtt_ms:g} | {wrong:.0%} | {one:.1f} | {best:.1f} ({best / one:.2f}x) | {rate:.1f} ({rate / one:.2f}x) "
        f"| {waste:.2f} |"
    )


def together(line: PipelineSpec, count: int, tokens: int) -> float:
    """Tokens per second of so many sessions without guesses, while all of them run."""
    ring = SimulatedRing(line, sessions=count, drafts=False, tokens=tokens, prompt=60)
    ring.run()
    return rate_together(list(ring.times.values()))


def main(args: argparse.Namespace) -> None:
    """Two tables."""
    points = [(int(rows), float(ms)) for rows, ms in (part.split(":") for part in args.passes.split(","))]
    stages = (pace(points),) * args.stages
    lines = {rtt_ms: PipelineSpec(stages, rtt_ms / 2, rows_min=points[0][0]) for rtt_ms in args.rtts}
    print("| RTT ms | wrong | one | fixed | own | waste |\n|---|---|---|---|---|---|")
    for (rtt_ms, line), wrong in itertools.product(lines.items(), args.wrong):
        print(row(line, rtt_ms, wrong, args.tokens), flush=True)
    for rtt_ms, line in lines.items():
        rates = ", ".join(f"{count}: {together(line, count, args.tokens):.0f}" for count in SESSIONS)
        print(f"\nRTT {rtt_ms:g} ms, sessions at once: {rates} tok/s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", default="2:16.5,4:18.1,8:25.6,16:37.9,64:113")
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.1, 0.25])
    parser.add_argument("--rtts", type=float, nargs="+", default=[0.0, 10.0, 20.0])
    parser.add_argument("--tokens", type=int, default=192)
    main(parser.parse_args())
