"""What it costs that the rows of a pass belong to several sessions: milliseconds of a pass of some rows of one session,
and of one row of each of as many sessions, behind so many tokens; medians of passes in turn.

.venv/bin/python contrib/benchmarks/engine/sessions.py FILE [--sessions 1 2 4 8 16] [--depths 80 200 1000] [--threads 2]
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions

Shape = Sequence[tuple[int, int]]
"""(session, rows) of each part of a pass."""
CHUNK = 64
TIMES = 25


def fill(context: Context, sessions: int, depth: int) -> None:
    """Let each session read so many tokens."""
    for session in range(sessions):
        context.clear(session)
        for at in range(0, depth, CHUNK):
            rows = BatchTokens()
            rows.add(session, at, [7 + session] * min(CHUNK, depth - at), CHUNK)
            context.decode(rows)


def pass_ms(context: Context, shape: Shape, depth: int) -> float:
    """Milliseconds of one pass, which is undone."""
    rows = BatchTokens()
    for session, count in shape:
        rows.add(session, depth, [5 + session] * count)
    began = time.perf_counter()
    context.decode(rows)
    context.synchronize()
    took = (time.perf_counter() - began) * 1000
    for session, _ in shape:
        context.rollback(session, depth)
    return took


def measured(context: Context, counts: Sequence[int], depth: int) -> Iterator[tuple[int, float, float]]:
    """For each number of rows: milliseconds as rows of one session, and of as many sessions."""
    fill(context, max(counts), depth)
    for count in counts:
        shapes: tuple[Shape, Shape] = [(0, count)], [(session, 1) for session in range(count)]
        times = [[pass_ms(context, shape, depth) for shape in shapes] for _ in range(TIMES)]
        one, several = (median(column) for column in zip(*times, strict=True))
        yield count, one, several


def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    settings = ContextSettings(
        ctx_size=max(args.depths) + CHUNK, parallel=max(args.sessions), type_k="f16", threads=args.threads
    )
    with LoadedGguf.load(ModelLoadOptions(args.file)) as model, Context(model, settings) as context:
        print("| behind | rows | of one session | of as many sessions |\n|---|---|---|---|")
        for depth in args.depths:
            for count, one, several in measured(context, args.sessions, depth):
                print(f"| {depth} | {count} | {one:.1f} | {several:.1f} ({several / one:.2f}x) |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a GGUF file")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--depths", type=int, nargs="+", default=[80, 200, 1000])
    parser.add_argument("--threads", type=int, default=2)
    main(parser.parse_args())
