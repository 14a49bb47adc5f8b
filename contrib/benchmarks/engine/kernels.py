#!/usr/bin/env python3
"""Our kernels (contrib/llama) against llama.cpp's own: llama-bench of the same source, built with and without them.

    contrib/benchmarks/build_peers.sh                # prints THEIRS
    KERNELS=1 contrib/benchmarks/build_peers.sh      # prints OURS
    python contrib/benchmarks/engine/kernels.py THEIRS OURS

Ours do not have weights repacked, as twd does not where it has kernels for them. Both take turns; each figure is the
median of all passes of so many rows behind so many tokens, in milliseconds.
"""

import argparse
import json
import os
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

from random_model import random_model

from twd.engine.demo_model import demo_model
from twd.process.cores import usable_cores

_AS_IT_COMES = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "GGML_"))}
"""What our engine sets for itself is not for llama-bench."""

Times = dict[tuple[int, int], list[float]]


def passes(program: Path, model: Path, args: argparse.Namespace, into: Times, *more: str) -> None:
    """One turn of llama-bench."""
    argv = [str(program / "llama-bench"), "-m", str(model), "-t", str(args.threads), "-n", "0", "-o", "json"]
    argv += ["-p", args.rows, "-d", args.depths, "-fa", "1", "-r", str(args.runs), *more]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, env=_AS_IT_COMES).stdout
    for test in json.loads(told):
        into[test["n_depth"], test["n_prompt"]] += [sample / 1e6 for sample in test["samples_ns"]]


def main() -> None:
    """Measure kind for kind and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theirs", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("--kinds", default="q4_0,q8_0,f16,f32", help="weights of the demo model to measure")
    parser.add_argument("--random", default="", help="weights of a random model to measure, such as q4_k_m")
    parser.add_argument("--experts", type=int, default=0, help="how many of them each layer of the random model has")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "twd")
    parser.add_argument("--rows", default="1,2,4,8,16,64,512")
    parser.add_argument("--depths", default="0,256,1024")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    args = parser.parse_args()
    rows, depths = [[int(part) for part in text.split(",")] for text in (args.rows, args.depths)]
    models = [(kind, demo_model(args.cache, kind)) for kind in args.kinds.split(",") if kind]
    models += [
        (f"{kind}, random", random_model(args.cache, kind, experts=args.experts))
        for kind in args.random.split(",")
        if kind
    ]
    for kind, model in models:
        theirs: Times = defaultdict(list)
        ours: Times = defaultdict(list)
        for _ in range(args.rounds):
            passes(args.theirs, model, args, theirs)
            passes(args.ours, model, args, ours, "--repack", "0")
        print(f"\n{kind}: ms a pass, llama.cpp's and ours\n| behind | " + " | ".join(f"{n} rows" for n in rows) + " |")
        print("|---" * (len(rows) + 1) + "|")
        for depth in depths:
            pairs = [(statistics.median(theirs[depth, n]), statistics.median(ours[depth, n])) for n in rows]
            print(
                f"| {depth} | " + " | ".join(f"{a:.1f} / {b:.1f} ({a / b:.2f}x)" for a, b in pairs) + " |", flush=True
            )


if __name__ == "__main__":
    main()
