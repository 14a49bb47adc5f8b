#!/usr/bin/env python3
"""A mixture on one machine and on a ring of two, each machine with memory for a part of the file: ring.py MODEL.gguf

Each stage is a process of its own with its own slice, and reads its own experts. They share the cores and the disk of
this machine, of which one stage alone has all: a ring of real machines is quicker.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from twd.bench.ring.lab import RingLab, RingPlan
from twd.engine.experts.layout import expert_layout
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.gguf_tools.inspect import inspect
from twd.wire.job import Sampling

RARE = Sampling(repeat_last_n=-1, repeat_penalty=10.0, presence_penalty=10.0)
"""Hardly a token stands there twice, so each chooses other experts."""


def measure(args: argparse.Namespace, stages: int, folder: Path) -> dict[str, float]:
    """Tokens a second of so many stages: the best of some texts, and all of them."""
    layers, layout = inspect(args.model).layers, expert_layout(args.model)
    if layout is None:
        raise SystemExit(f"{args.model} has no fused experts")
    memory = int(args.share * args.model.stat().st_size) - layout.dense_bytes // stages
    cuts = tuple(layers * number // stages for number in range(stages + 1))
    plan = RingPlan(args.model, folder, cuts, parallel=1, threads=args.threads, plain=True, moe_memory=memory)
    with LoadedGguf.load(ModelLoadOptions(args.model, vocab_only=True)) as model:
        vocabulary = model.vocab.size
    with RingLab(plan) as lab, lab.ring(args.rtt, 1, vocabulary) as desk:
        os.sync()  # the slices were just written
        desk.sampling = RARE
        rates = []
        for number in range(args.texts + 1):
            prompt = [1 + number, 1000 + 7 * number, 2000 + 11 * number]
            (said,) = desk.speak([prompt], args.tokens, [None])
            rates.append((len(said.tokens) - 1) * 1000 / said.decode_ms)
    return {"tok_s": round(sum(rates[1:]) / args.texts, 2), "least": round(min(rates[1:]), 2)}


def main() -> None:
    """One line for each number of stages, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--share", type=float, default=0.3, help="of the file, in the memory of each stage")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rtt", type=float, default=0.0, help="milliseconds there and back between stages")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    alone = 0.0
    for stages in args.stages:
        with tempfile.TemporaryDirectory() as folder:
            told = measure(args, stages, Path(folder))
        alone = alone or told["tok_s"]
        print(json.dumps({"stages": stages} | told | {"to_first": round(told["tok_s"] / alone, 2)}), flush=True)


if __name__ == "__main__":
    main()
