"""What it brings to send the answer that one expects along (OpenAI's `prediction`): all right, or right in most words.

    .venv/bin/python contrib/benchmarks/speculation/predicted.py

Each prompt is answered plain, with n-gram drafts alone, with its own answer as the prediction, and with that answer
after every `--change`th word of it was put in capitals, `--rounds` times in turn. There is no draft model. A ratio is
that of a prompt's median speed to its median plain speed.
"""

import argparse
import asyncio
from statistics import median

from best_and_worst import served
from harness import MODEL, weights

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.process.cores import usable_cores
from twd.wire.job import Speculation

WAYS = ("n-gram alone", "predicted", "mostly predicted")


def changed(text: str, every: int) -> str:
    """The text with some of its words in capitals."""
    words = text.split(" ")
    return " ".join(word.upper() if at % every == every - 1 else word for at, word in enumerate(words))


async def compare(client: BenchClient, prompt: BenchPrompt, args: argparse.Namespace) -> tuple[list[float], bool]:
    """How many times as fast as plain a prompt is in each way, and whether all texts were equal."""
    plain = BenchRequest(Speculation(enabled=False), args.max_tokens, ignore_eos=True)
    text = (await client.answer(MODEL, prompt, plain)).text
    expected = ("", text, changed(text, args.change))
    guessed = [BenchRequest(Speculation(prediction=one), args.max_tokens, ignore_eos=True) for one in expected]
    turns = [[await client.answer(MODEL, prompt, way) for way in (plain, *guessed)] for _ in range(args.rounds)]
    rates = [median(answer.rate for answer in way) for way in zip(*turns, strict=True)]
    equal = len({tuple(answer.tokens) for turn in turns for answer in turn}) == 1
    ratios = [rate / rates[0] for rate in rates[1:]]
    told = ", ".join(f"{way} {ratio:.2f}x" for way, ratio in zip(WAYS, ratios, strict=True))
    print(f"  {prompt.kind:<10} plain {rates[0]:6.1f} tok/s, {told}, {'equal' if equal else 'DIFFERENT'}", flush=True)
    return ratios, equal


async def main(args: argparse.Namespace) -> None:
    async with served(weights(args.target), ngram=True, threads=args.threads) as (_, client):
        rows = [await compare(client, prompt, args) for prompt in PROMPTS[:: args.every]]
    print(f"equal texts: {sum(equal for _, equal in rows)} of {len(rows)}")
    for way, ratios in zip(WAYS, zip(*(ratios for ratios, _ in rows), strict=True), strict=True):
        print(f"{way}, {len(ratios)} prompts: median {median(ratios):.2f}x, least {min(ratios):.2f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="f32", help="q4_0, q8_0, f16 or f32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--every", type=int, default=1, help="ask every n-th prompt")
    parser.add_argument("--change", type=int, default=12, help="every so many words one differs")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the engine")
    asyncio.run(main(parser.parse_args()))
