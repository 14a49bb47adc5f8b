#!/usr/bin/env python3
"""What reading experts costs where there is room for all of them, and what counting them costs: costs.py MODEL.gguf

One process reads the same text in turns: with the model loaded as usual (`whole`), the same with each choice counted
and remembered (`counted`), and with the cache of experts in front, which holds all of them (`streamed`). Each turn is
compared with the others of its round, within a second or so, so other work on the machine troubles little.
"""

import argparse
import json
import mmap
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.experts.layout import expert_layout
from twd.engine.model import LoadedGguf, ModelLoadOptions

CTX = 512


def options(path: Path) -> dict[str, ModelLoadOptions]:
    """The ways to load it."""
    layout = expert_layout(path)
    if layout is None:
        raise SystemExit(f"{path} has no fused experts")
    return {
        "whole": ModelLoadOptions(path, use_extra_bufts=False),
        "counted": ModelLoadOptions(path, remember=True),
        "streamed": ModelLoadOptions(path, expert_bytes=layout.padded_bytes(mmap.PAGESIZE)),
    }


def write(context: Context, tokens: list[int]) -> float:
    """Read so many tokens one by one; returns seconds."""
    began = time.perf_counter()
    for token in tokens:
        if context.end(0) >= CTX:
            context.clear(0)
        rows = BatchTokens()
        rows.add(0, context.end(0), [token])
        context.decode(rows)
        context.logits(0)
    return time.perf_counter() - began


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each turn, by way."""
    spent: dict[str, list[float]] = {}
    with ExitStack() as stack:
        settings = ContextSettings(ctx_size=CTX, type_k="f16", threads=args.threads)
        contexts: dict[str, Context] = {}
        for way, how in options(args.model).items():
            model = stack.enter_context(LoadedGguf.load(how))
            contexts[way] = stack.enter_context(Context(model, settings))
        dice = np.random.default_rng(1)
        texts = dice.integers(100, 10_000, (args.rounds + 1, args.tokens)).tolist()
        for context in contexts.values():
            write(context, dice.integers(100, 10_000, args.warmup).tolist())
        for number, text in enumerate(texts):
            order = list(contexts) if number % 2 else list(contexts)[::-1]
            for way in order:
                seconds = write(contexts[way], text)
                if number:
                    spent.setdefault(way, []).append(seconds)
    return spent


def main() -> None:
    """One line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=24, help="in each turn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=160, help="tokens until all experts are there")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    args = parser.parse_args()
    spent = measure(args)
    for way, seconds in spent.items():
        ratios = [mine / one for mine, one in zip(spent["whole"], seconds, strict=True)]
        figures = {
            "way": way,
            "tok_s": round(args.tokens / statistics.median(seconds), 2),
            "best_tok_s": round(args.tokens / min(seconds), 2),
            "to_whole": round(statistics.median(ratios), 3),
            "best_to_best": round(min(spent["whole"]) / min(seconds), 3),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
