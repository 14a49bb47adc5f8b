"""Memory over many requests: resident set and open files of every process, at the start and at the end.

.venv/bin/python contrib/benchmarks/speculation/soak.py --requests 2000
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import psutil
from harness import MODEL, System, client_of, weights

from twd.bench.client import Ask
from twd.bench.exact_cases import draw_cases
from twd.wire.job import Speculation


def figures(system: System) -> dict[str, tuple[float, int]]:
    """MiB and open files of each process."""
    found = {}
    for name, one in system.told["processes"].items():
        process = psutil.Process(one["pid"])
        found[name] = (process.memory_info().rss / 2**20, process.num_fds())
    return found


async def main(args: argparse.Namespace) -> None:
    home = Path(tempfile.mkdtemp(prefix="twd-soak-"))
    model = {"path": str(weights("q4_0")), "ctx_size": 512, "parallel": 4}
    drafters = [{"path": str(weights("q8_0"))}] if args.drafter else []
    system = System(home, {"models": {str(MODEL): model}, "drafters": drafters})
    system.start()
    try:
        async with client_of(system) as client:
            cases = iter(draw_cases(args.requests, seed=3, max_tokens=12))
            warm, done = args.requests // 10, 0
            before = figures(system)

            async def worker() -> None:
                nonlocal done, before
                for case in cases:
                    how = Ask(
                        Speculation(window=case.window), case.max_tokens, case.sampling, False, case.stop, case.grammar
                    )
                    await client.answer(MODEL, case.prompt, how)
                    done += 1
                    if done == warm:
                        before = figures(system)

            await asyncio.gather(*(worker() for _ in range(args.streams)))
            await asyncio.sleep(2)
            after = figures(system)
    finally:
        system.stop()
    print(f"{'process':<24} MiB after {warm} and {args.requests} requests, open files")
    for name, (mib, files) in before.items():
        print(f"{name:<24} {mib:8.1f} -> {after[name][0]:8.1f}   {files} -> {after[name][1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--drafter", action="store_true")
    asyncio.run(main(parser.parse_args()))
