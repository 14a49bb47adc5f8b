#!/usr/bin/env python3
"""What reading ahead brings a mixture in memory for a part of its file: foresight.py MODEL.gguf [--shares 0.8 0.6]

One process writes random text in turns: without reading ahead, with it always, and as it decides by itself.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import ExpertNumbers, Foresight
from twd.engine.model import LoadedGguf, ModelLoadOptions

CTX = 512


class Writer:
    """Writes random text, token by token; starts a new text when the context is full."""

    def __init__(self, context: Context, temperature: float) -> None:
        self._context = context
        self._dice = np.random.default_rng(1)
        self._temperature = temperature
        self._token = 1

    def steps(self, count: int) -> float:
        """Write so many tokens; returns seconds."""
        began = time.perf_counter()
        for _ in range(count):
            if self._context.end(0) >= CTX:
                self._context.clear(0)
            rows = BatchTokens()
            rows.add(0, self._context.end(0), [self._token])
            self._context.decode(rows)
            logits = self._context.logits(0)
            chances = np.exp((logits - logits.max()).astype(np.float64) / self._temperature)
            self._token = int(self._dice.choice(len(chances), p=chances / chances.sum()))
        return time.perf_counter() - began


def measure(args: argparse.Namespace, share: float) -> None:
    """All ways at one share."""
    layout = expert_layout(args.model)
    if layout is None:
        raise SystemExit(f"{args.model} has no fused experts")
    budget = int(share * args.model.stat().st_size) - layout.dense_bytes
    spent = dict.fromkeys(Foresight, 0.0)
    told: dict[Foresight, list[ExpertNumbers]] = {way: [] for way in Foresight}
    options = ModelLoadOptions(args.model, expert_bytes=budget)
    settings = ContextSettings(ctx_size=CTX, type_k="f16", threads=args.threads)
    with LoadedGguf.load(options) as model, Context(model, settings) as context:
        stream = model.experts
        assert stream is not None
        writer = Writer(context, args.temperature)
        writer.steps(args.warmup)
        for _ in range(args.rounds):
            for way in Foresight:
                stream.native.set_foresight(way)
                writer.steps(2)
                told[way].append(stream.numbers())
                spent[way] += writer.steps(args.tokens)
                told[way].append(stream.numbers())
    tokens = args.rounds * args.tokens
    for way in Foresight:
        pairs = list(zip(told[way][::2], told[way][1::2], strict=True))

        def sums(name: str, pairs: list[tuple[ExpertNumbers, ExpertNumbers]] = pairs) -> int:
            return sum(getattr(after, name) - getattr(before, name) for before, after in pairs)

        figures = {
            "share": share,
            "foresight": way.name.lower(),
            "tok_s": round(tokens / spent[way], 2),
            "to_off": round(spent[Foresight.OFF] / spent[way], 3),
            "hits": round(sums("hits") / sums("asked"), 3),
            "mib_a_token": round(sums("read_bytes") / tokens / 2**20, 1),
            "waited_ms": round(sums("waited_ns") / tokens / 1e6, 2),
            "foreseen": round(sums("foreseen") / tokens, 1),
            "used": round(sums("foreseen_used") / max(1, sums("foreseen")), 2),
            "disk_mb_s": round(sums("read_bytes") * 1e3 / max(1, sums("reading_ns"))),
        }
        print(json.dumps(figures), flush=True)


def main() -> None:
    """One line for each share and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.6], help="of the file, in memory")
    parser.add_argument("--tokens", type=int, default=48, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--temperature", type=float, default=1000.0)
    args = parser.parse_args()
    for share in args.shares:
        measure(args, share)


if __name__ == "__main__":
    main()
