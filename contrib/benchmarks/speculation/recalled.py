"""What it brings to look into earlier answers, where requests resemble each other: forms, boilerplate, agents.

    .venv/bin/python contrib/benchmarks/speculation/recalled.py

Each request of a kind is answered plain, with n-gram drafts from its own text, and with earlier answers of the same way
looked into as well; no request comes twice. There is no draft model. A ratio is that of an answer's speed to its plain
speed; the first answer of a kind has nothing to look into.
"""

import argparse
import asyncio
from statistics import median

from best_and_worst import served
from harness import MODEL, weights

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import BenchPrompt
from twd.process.cores import usable_cores
from twd.wire.job import ChatMessage, Speculation

KINDS = {
    "code": (
        "Write a Python function {} with a docstring and a short example.",
        [
            "that adds up a list of numbers",
            "that multiplies a list of numbers",
            "that finds the largest number of a list",
            "that counts the even numbers of a list",
            "that reverses a list",
            "that joins a list of words",
        ],
    ),
    "letter": (
        "Write a polite letter to a customer whose order of {} is late.",
        ["shoes", "books", "garden chairs", "coffee", "a bicycle", "window curtains"],
    ),
    "steps": (
        "How do I set up {} on a Linux server? Answer in numbered steps.",
        ["nginx", "a mail server", "PostgreSQL", "a firewall", "backups", "a VPN"],
    ),
}
WAYS = ("its own text", "earlier answers, too")


async def compare(client: BenchClient, kind: str, question: str, max_tokens: int) -> tuple[list[float], bool]:
    """How many times as fast as plain a request is in each way, and whether all texts were equal."""
    prompt = BenchPrompt(kind, (ChatMessage(role="user", content=question),))
    plain = await client.answer(MODEL, prompt, BenchRequest(Speculation(enabled=False), max_tokens))
    drafted = [
        await client.answer(MODEL, prompt, BenchRequest(Speculation(), max_tokens, recall=way)) for way in (False, True)
    ]
    ratios = [answer.rate / plain.rate for answer in drafted]
    return ratios, all(answer.tokens == plain.tokens for answer in drafted)


async def main(args: argparse.Namespace) -> None:
    first: list[list[float]] = []
    later: list[list[float]] = []
    equal: list[bool] = []
    async with served(weights(args.target), ngram=True, threads=args.threads) as (_, client):
        for kind, (text, fillings) in KINDS.items():
            told = [await compare(client, kind, text.format(one), args.max_tokens) for one in fillings]
            ratios = [one for one, _ in told]
            shown = "; ".join(f"{own:.2f}x {recalled:.2f}x" for own, recalled in ratios)
            print(f"  {kind:<7} {shown}", flush=True)
            first.append(ratios[0])
            later += ratios[1:]
            equal += [same for _, same in told]
    print(f"equal texts: {sum(equal)} of {len(equal)}")
    for way, name in enumerate(WAYS):
        values = [ratios[way] for ratios in later]
        start = median(ratios[way] for ratios in first)
        told_way = (
            f"first answers {start:.2f}x, later ones {median(values):.2f}x ({min(values):.2f} to {max(values):.2f})"
        )
        print(f"{name}: {told_way}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="f32", help="q4_0, q8_0, f16 or f32")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the engine")
    asyncio.run(main(parser.parse_args()))
