"""What passes take while other programs take cores: with all threads, and with as many as are quickest.

.venv/bin/python contrib/benchmarks/engine/threads.py FILE [--threads 2] [--rows 1 8] [--busy 0 1 2] [--seconds 8]
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.pass_threads import keep_all_threads, threads_in_use

DEPTH = 64
CONTEXT = 512


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many programs that compute without an end."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def mean_ms(context: Context, rows: int, seconds: float) -> float:
    """Milliseconds of a pass, over so many seconds."""
    passes, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        given = BatchTokens()
        given.add(0, DEPTH, [5] * rows)
        context.decode(given)
        context.synchronize()
        context.rollback(0, DEPTH)
        passes += 1
    return 1000 * spent / passes


def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    settings = ContextSettings(ctx_size=CONTEXT, parallel=1, type_k="f16", threads=args.threads)
    with LoadedGguf.load(ModelLoadOptions(args.file)) as model, Context(model, settings) as context:
        prompt = BatchTokens()
        prompt.add(0, 0, [7] * DEPTH, DEPTH)
        context.decode(prompt)
        print("| rows | busy programs | all threads | as many as are quickest |\n|---|---|---|---|")
        for rows in args.rows:
            for busy in args.busy:
                with busy_programs(busy):
                    keep_all_threads(True)
                    every = mean_ms(context, rows, args.seconds)
                    keep_all_threads(False)
                    best = mean_ms(context, rows, args.seconds)
                used = threads_in_use(args.threads)
                print(f"| {rows} | {busy} | {every:.1f} | {best:.1f} ({used} of {args.threads}) |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=8.0)
    main(parser.parse_args())
