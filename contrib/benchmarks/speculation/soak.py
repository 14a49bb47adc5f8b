"""Memory over many requests: resident set and open files of every process as they go, and whether the KV is given back.

    .venv/bin/python contrib/benchmarks/speculation/soak.py --requests 2000

At the end nothing may be open, and as many requests at once as there are places must each fill a whole context:
had any session kept its cells, there would be no room for them. Exit code 1 where something is kept.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import psutil
from harness import MODEL, System, client_of, until, weights

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.exact_cases import ExactCase, draw_cases
from twd.bench.prompts import BenchPrompt
from twd.bench.session import facts_of, find_speculator
from twd.wire.job import ChatMessage, Speculation

CONTEXT = 512
PLACES = 4
FILLING = 440
"""Words of one token each; the template adds some."""


def figures(system: System) -> dict[str, tuple[float, int]]:
    """MiB and open files of each process."""
    found = {}
    for name, one in system.told["processes"].items():
        process = psutil.Process(one["pid"])
        found[name] = (process.memory_info().rss / 2**20, process.num_fds())
    return found


async def ask(client: BenchClient, case: ExactCase) -> None:
    """One request of any kind."""
    how = BenchRequest(Speculation(window=case.window), case.max_tokens, case.sampling, False, case.stop, case.grammar)
    await client.answer(MODEL, case.prompt, how)


async def fill(client: BenchClient) -> bool:
    """Whether every place has room for a whole context, all at once."""

    def long(place: int) -> BenchPrompt:
        return BenchPrompt("long", (ChatMessage(role="user", content=f"{place}" + " the" * FILLING),))

    how = BenchRequest(Speculation(), max_tokens=8)
    answers = await asyncio.gather(*(client.answer(MODEL, long(place), how) for place in range(PLACES)))
    used = [answer.stats.prompt_tokens for answer in answers]
    print(f"{PLACES} contexts of {CONTEXT} at once, with prompts of {', '.join(map(str, used))} tokens: room for all")
    return all(len(answer.tokens) == how.max_tokens for answer in answers)


async def given_back(client: BenchClient) -> bool:
    """Whether nothing is open any more."""
    facts = facts_of(await find_speculator(client, ""))
    return not facts.sessions and not facts.kv_tokens


async def main(args: argparse.Namespace) -> int:
    home = Path(tempfile.mkdtemp(prefix="twd-soak-"))
    model = {"path": str(weights("q4_0")), "ctx_size": CONTEXT, "parallel": PLACES}
    drafters = [{"path": str(weights("q8_0"))}] if args.drafter else []
    system = System(home, {"models": {str(MODEL): model}, "drafters": drafters})
    system.start()
    try:
        async with client_of(system) as client:
            cases = iter(draw_cases(args.requests, seed=3, max_tokens=12))
            rows: list[dict[str, tuple[float, int]]] = []
            done = 0

            async def worker() -> None:
                nonlocal done
                for case in cases:
                    await ask(client, case)
                    done += 1
                    if done % max(1, args.requests // 10) == 0:
                        rows.append(figures(system))
                        told = ", ".join(f"{name} {mib:.1f} MiB {files}" for name, (mib, files) in rows[-1].items())
                        print(f"{done:6} requests: {told}", flush=True)

            await asyncio.gather(*(worker() for _ in range(args.streams)))
            await until(lambda: given_back(client), "all sessions are closed")
            room = await fill(client)
    finally:
        system.stop()
    grown = [name for name, (mib, _) in rows[0].items() if rows[-1][name][0] > mib * (1 + args.grow / 100)]
    leaking = [name for name, (_, files) in rows[0].items() if rows[-1][name][1] > files + args.streams]
    print(
        f"grown by more than {args.grow:g} % after the first tenth: {grown or 'none'}; more files: {leaking or 'none'}"
    )
    return 0 if room and not grown and not leaking else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--drafter", action="store_true")
    parser.add_argument("--grow", type=float, default=10.0, help="percent that a process may grow")
    sys.exit(asyncio.run(main(parser.parse_args())))
