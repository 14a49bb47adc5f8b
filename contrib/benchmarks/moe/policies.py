#!/usr/bin/env python3
"""Hits of the cache of experts beside the best policy by replay, also after traffic has changed: policies.py MODEL

Texts are random tokens, some of them often, as in a language. After a while other tokens become the frequent ones. The
best policy is found afterwards, over the same choices: how long a use counts, from "latest used" to "most used".
"""

import argparse
import json
from pathlib import Path

import numpy as np

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.stream import HALF_LIVES
from twd.engine.model import LoadedGguf, ModelLoadOptions


def main() -> None:
    """One line for each share of memory and each kind of traffic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.3], help="of the experts, in memory")
    parser.add_argument("--tokens", type=int, default=4000, help="of each kind of traffic")
    parser.add_argument("--settle", type=int, default=2000, help="tokens after a change that do not count")
    parser.add_argument("--zipf", type=float, default=1.1, help="how uneven tokens are; 0: even")
    args = parser.parse_args()
    for share in args.shares:
        measure(args, share)


def measure(args: argparse.Namespace, share: float) -> None:
    """Two kinds of traffic, one after the other."""
    layout = expert_layout(args.model)
    if layout is None:
        raise SystemExit(f"{args.model} has no fused experts")
    budget = int(layout.padded_bytes(4096) * share)
    with (
        LoadedGguf.load(ModelLoadOptions(args.model, expert_bytes=budget)) as model,
        Context(model, ContextSettings(ctx_size=512)) as context,
    ):
        stream = model.experts
        assert stream is not None
        dice = np.random.default_rng(1)
        chances = 1 / np.arange(1, model.vocab.size + 1) ** args.zipf
        for kind in ("first", "changed"):
            tokens = dice.permutation(model.vocab.size)[
                dice.choice(model.vocab.size, args.tokens, p=chances / chances.sum())
            ]
            feed(context, tokens[: args.settle])
            before = stream.numbers()
            feed(context, tokens[args.settle :])
            now = stream.numbers()
            counted = (args.tokens - args.settle) / args.tokens
            best = {one: stream.native.replay(one, budget, args.tokens, counted) for one in HALF_LIVES}
            top = max(best, key=lambda one: best[one])
            hits = (now.hits - before.hits) / (now.asked - before.asked)
            told = {"share": share, "traffic": kind, "hits": round(hits, 3), "best": round(best[top], 3)}
            print(json.dumps(told | {"half_life": stream.half_life, "best_half_life": top}), flush=True)


def feed(context: Context, tokens: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
    """One token a pass."""
    for token in tokens:
        if context.end(0) >= context.settings.ctx_size:
            context.clear(0)
        rows = BatchTokens()
        rows.add(0, context.end(0), [int(token)])
        context.decode(rows)


if __name__ == "__main__":
    main()
