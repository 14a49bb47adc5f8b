"""Proof by comparison: many requests, each answered plain and with drafts of every kind; all texts must be equal.

    .venv/bin/python contrib/benchmarks/speculation/exact.py --cases 1000

Phases, a share of the cases each: n-gram alone; with a draft model; with a liar; with the model and the liar
coming, going and being killed while an answer is written. Exit code 1 when any text differs. A run that was broken off
goes on at the case that it named last: `--first 325`.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from twd.bench.client import BenchRequest, MeasuredAnswer
from twd.bench.exact_cases import ExactCase, draw_cases
from twd.bench.lab import MODEL, InProcessSystem, lab
from twd.engine.demo_model import demo_model
from twd.kit.service import Service
from twd.wire.job import Speculation

OFF = Speculation(enabled=False)
TOLD_EVERY = 25


async def compare(
    room: InProcessSystem, cases: Mapping[int, ExactCase], name: str, meanwhile: Callable[[int], Awaitable[None]]
) -> Counter[str]:
    """Ask each case plain and drafted; count what was equal."""
    count: Counter[str] = Counter()
    for number, case in cases.items():
        plain = await ask(room, case, OFF)
        drafted, _ = await asyncio.gather(ask(room, case, Speculation(window=case.window)), meanwhile(number))
        same = (plain.tokens, plain.text) == (drafted.tokens, drafted.text)
        count["equal" if same else "DIFFERENT"] += 1
        count["checked"] += drafted.stats.checked
        count["taken"] += drafted.stats.taken
        if not same:
            print(f"  case {number} differs: {case}\n    {plain.text!r}\n    {drafted.text!r}", flush=True)
        if number % TOLD_EVERY == 0:
            print(f"  case {number}: {count['equal']} equal, {count['DIFFERENT']} different", flush=True)
    print(f"{name}: {dict(count)}", flush=True)
    return count


async def ask(room: InProcessSystem, case: ExactCase, speculation: Speculation) -> MeasuredAnswer:
    how = BenchRequest(
        speculation, case.max_tokens, case.sampling, ignore_eos=False, stop=case.stop, grammar=case.grammar
    )
    return await room.client.answer(MODEL, case.prompt, how)


async def main(args: argparse.Namespace) -> int:
    target, draft = (demo_model(args.cache, kind) for kind in (args.target, args.draft))
    cases = draw_cases(args.cases, args.seed, args.max_tokens)
    began = time.monotonic()
    total: Counter[str] = Counter()
    visitors: list[Service] = []

    async with lab(target, insist=args.insist) as room:
        assert room.speculator.loaded is not None
        print(f"{args.target}: {room.speculator.loaded.exactness.settings}", flush=True)
        vocab = room.speculator.loaded.facts.vocab

        async def nothing(number: int) -> None:
            pass

        async def come_and_go(number: int) -> None:
            if visitors and number % 6 == 0:
                await room.kill(visitors.pop(0))
            elif visitors and number % 3 == 0:
                await visitors.pop(0).stop("left midway")
            elif number % 5 == 0:
                visitors.append(await room.drafter(draft))
            elif number % 7 == 0:
                visitors.append(await room.hostile(number, vocab))

        def quarter(which: int) -> dict[int, ExactCase]:
            places = range(len(cases) * which // 4, len(cases) * (which + 1) // 4)
            return {number: cases[number] for number in places if number >= args.first}

        total += await compare(room, quarter(0), "n-gram alone", nothing)
        model = await room.drafter(draft)
        total += await compare(room, quarter(1), "draft model", nothing)
        liar = await room.hostile(args.seed, vocab)
        await model.stop("next phase")
        total += await compare(room, quarter(2), "liar", nothing)
        await liar.stop("next phase")
        total += await compare(room, quarter(3), "coming and going", come_and_go)
    print(f"all: {dict(total)} in {time.monotonic() - began:.0f} s")
    return 1 if total["DIFFERENT"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the case to begin with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=24, help="of the longest answers")
    parser.add_argument("--target", default="q4_0", help="q4_0, q8_0, f16 or f32")
    parser.add_argument("--draft", default="q8_0")
    parser.add_argument("--insist", action="store_true", help="exact: true, for a target on a GPU")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "twd-bench")
    sys.exit(asyncio.run(main(parser.parse_args())))
