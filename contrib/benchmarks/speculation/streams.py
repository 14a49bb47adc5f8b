"""Many streams at once: total tokens per second, and whether one starves.

.venv/bin/python contrib/benchmarks/speculation/streams.py --streams 1 4 16
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from harness import MODEL, System, client_of, weights

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import PROMPTS
from twd.wire.job import Speculation


async def together(client: BenchClient, streams: int, how: BenchRequest) -> tuple[float, float, float]:
    """Total tokens per second after all have begun, and the longest and the median pause of any stream."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(client.answer(MODEL, PROMPTS[i % len(PROMPTS)], how) for i in range(streams)))
    spent = time.perf_counter() - began
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    return sum(len(answer.tokens) for answer in answers) / spent, max(gaps), median(gaps)


async def main(args: argparse.Namespace) -> None:
    home = Path(tempfile.mkdtemp(prefix="twd-streams-"))
    model = {"path": str(weights(args.target)), "ctx_size": 1024, "parallel": max(args.streams)}
    system = System(home, {"models": {str(MODEL): model}})
    system.start()
    try:
        async with client_of(system) as client:
            for name, speculation in (("plain", Speculation(enabled=False)), ("drafted (n-gram)", Speculation())):
                alone = 0.0
                for streams in args.streams:
                    how = BenchRequest(speculation, args.max_tokens)
                    await together(client, streams, BenchRequest(speculation, 8))
                    runs = [await together(client, streams, how) for _ in range(args.rounds)]
                    rate = median(run[0] for run in runs)
                    alone = alone or rate
                    longest = median(run[1] / run[2] for run in runs)
                    print(
                        f"{name}: {streams:2} streams {rate:7.1f} tok/s in all, {rate / alone:.2f}x one; "
                        f"longest pause {longest:.1f}x the median one",
                        flush=True,
                    )
    finally:
        system.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--target", default="q4_0")
    asyncio.run(main(parser.parse_args()))
