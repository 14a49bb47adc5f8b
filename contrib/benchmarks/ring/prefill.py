"""A long prompt over several stages beside one thread that reads it alone, in one run.

    .venv/bin/python contrib/benchmarks/ring/prefill.py --kinds f16 q4_0 --stages 2

The model lies in one process of one thread, and in `--stages` of them. Both read the same prompts, in turn, so that
what else the machine does hits both; each prompt is new to both. The figure is the ratio of their best times. It needs
a core for each stage.
"""

import argparse
import itertools
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from twd.bench.ring.lab import RingClient, RingLab, RingPlan
from twd.bench.ring.run import even_cuts
from twd.engine.demo_model import demo_model
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.gguf_tools.inspect import inspect

CACHE = Path.home() / ".cache" / "twd-bench"
ROOM = 64
IN_FLIGHT = 32
WORDS = range(1000, 20_000)
"""Plain tokens of the demo model."""


def prompt_ms(desk: RingClient, prompt: Sequence[int]) -> tuple[float, list[int]]:
    """Until the first token of an answer is known, and the answer."""
    (spoken,) = desk.speak([prompt], 4, [None])
    return spoken.first_ms, spoken.tokens


def compare(source: Path, stages: int, args: argparse.Namespace) -> tuple[float, float]:
    """The best time of one thread, and of the stages."""
    layers = inspect(source).layers
    with LoadedGguf.load(ModelLoadOptions(path=source, vocab_only=True)) as model:
        vocabulary = model.vocab.size
    folder = Path(tempfile.gettempdir()) / "twd-bench-slices"
    alone, shared = (
        RingPlan(source, folder, cuts, ctx_size=args.prompt + ROOM, parallel=1)
        for cuts in ((0, layers), even_cuts(layers, stages))
    )
    chance, best = random.Random(1), [float("inf")] * 2
    with RingLab(alone) as one, RingLab(shared) as several:
        rings = one.ring(0, IN_FLIGHT, vocabulary), several.ring(args.rtt, IN_FLIGHT, vocabulary)
        with rings[0] as alone_desk, rings[1] as shared_desk:
            for turn in range(args.turns + 1):
                prompt = chance.sample(WORDS, args.prompt)
                took, texts = zip(*(prompt_ms(desk, prompt) for desk in (alone_desk, shared_desk)), strict=True)
                if len(set(map(tuple, texts))) > 1:
                    raise SystemExit("the texts differ: that must not be")
                if turn:  # the first one warms up
                    best = [min(pair) for pair in zip(best, took, strict=True)]
    return best[0], best[1]


def main(args: argparse.Namespace) -> None:
    """One table."""
    print(f"a prompt of {args.prompt} tokens; one thread a stage, RTT {args.rtt:g} ms\n")
    print("| model | stages | one thread ms | the stages ms | ratio |\n|---|---|---|---|---|")
    for kind, stages in itertools.product(args.kinds, args.stages):
        alone_ms, shared_ms = compare(demo_model(CACHE, kind), stages, args)
        print(f"| {kind} | {stages} | {alone_ms:.0f} | {shared_ms:.0f} | {alone_ms / shared_ms:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["f16", "q8_0", "q4_0"])
    parser.add_argument("--stages", type=int, nargs="+", default=[2])
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--rtt", type=float, default=0.0)
    parser.add_argument("--turns", type=int, default=3)
    main(parser.parse_args())
