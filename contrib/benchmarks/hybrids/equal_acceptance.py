"""The speed of hybrids at equal acceptance, beside llama-server, which can accept drafts whatever they say.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python -m contrib.benchmarks.hybrids.equal_acceptance --rates 0.6 0.8 0.95

Here a drafter that costs nothing knows the text and tells each token rightly with that chance. There a draft model with
layers of 64 numbers guesses (`--spec-synth-rates`), and the best of several draft lengths counts, or no drafts. In
`qwen35 with a head` both compute the guesses of the model's own head, and take others in their place.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrib.benchmarks.engine.random_hybrid import KINDS, random_hybrid
from contrib.benchmarks.moe.drafts import KnowingDrafter
from contrib.benchmarks.product.llama_server import Launch, llama_server, programs_folder
from tests.engine.slices.recipes import recipe
from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.bus.memory.bus import MemoryBroker
from twd.decoding.window import Sampler, Target, VerifyResult
from twd.engine.demo_model import demo_model
from twd.engine.heads.seat import HeadSeat
from twd.engine.target import LocalTarget
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import ModelConfig, NgramConfig, Settings, SpeculationConfig
from twd.speculator.targets.native import native_speculator
from twd.wire.base import ModelId, NodeId
from twd.wire.job import Speculation

CACHE = Path.home() / ".cache" / "twd-bench"
MODEL = ModelId("target")
CTX_SIZE = 1024
WITH_HEAD = " with a head"
MODELS = (*KINDS, f"qwen35{WITH_HEAD}")
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)


class PlayedHead(HeadSeat):
    """Lets a head guess, and tells what a played one would have guessed. One session at a time."""

    def __init__(self, seat: HeadSeat) -> None:
        super().__init__(seat._head)
        self.rate = 0.0
        self._answer: list[int] = []
        self._prompt = -1

    def plays(self, answer: list[int], rate: float) -> None:
        """Guess this answer from now on."""
        self.rate, self._answer, self._prompt = rate, answer, -1

    def guess(
        self, verdict: VerifyResult, text: Sequence[int], count: int, sampler: Sampler, least: float = 0.0
    ) -> None:
        """As many guesses as a head makes that is always as sure as it is right."""
        if self._prompt < 0:
            self._prompt = len(text) - 1
        enough = next((made for made in range(1, count) if self.rate**made < least), count)
        super().guess(verdict, text, enough, sampler)
        said = len(text) - self._prompt
        verdict.guesses = self._answer[said : said + len(verdict.guesses)]
        verdict.sure = [self.rate] * len(verdict.guesses)


def with_played_head(target: Target) -> PlayedHead:
    """Put a played head in the place of the model's own."""
    if not isinstance(target, LocalTarget) or target.head is None:
        raise SystemExit("this model's own head does not guess")
    target.head = played = PlayedHead(target.head)
    return played


def spoilt(answer: list[int], rate: float, seed: int) -> list[int]:
    """The answer with some tokens changed; which ones depends on the seed alone."""
    dice = random.Random(seed)
    return [token if dice.random() < rate else max(0, token - 1) for token in answer]


async def ours(
    path: Path, rates: list[float], prompts: list[BenchPrompt], tokens: int, threads: int, *, head: bool
) -> dict[str, Any]:
    """Tokens a second, plain and by rate, and tokens of each pass: medians of the prompts, in turns."""
    broker = MemoryBroker()

    def context(node: str) -> ServiceContext:
        return ServiceContext(bus=broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids())

    with tempfile.TemporaryDirectory() as home:
        model = ModelConfig(path=str(path), ctx_size=CTX_SIZE, parallel=1, threads=threads)
        speculation = SpeculationConfig(ngram=NgramConfig(enabled=False), own_head=head)
        settings = Settings(models={str(MODEL): model}, home=home, speculation=speculation)
        speculator = native_speculator(context("here"), settings, str(MODEL))
        client = BenchClient(context("here"))
        await client.start()
        await speculator.start()
        await speculator.settled.wait()
        if speculator.loaded is None:
            raise SystemExit(speculator.note)
        drafter = KnowingDrafter(context("far"), speculator.loaded.facts.vocab)
        await drafter.start()
        played = with_played_head(speculator.loaded.target) if head else None
        if played is None:
            drafter.attach()

        def how(drafts: bool) -> BenchRequest:
            return BenchRequest(Speculation(enabled=drafts), tokens)

        speeds: dict[str, list[float]] = {name: [] for name in ("plain", *map(str, rates))}
        passes: dict[str, list[float]] = {str(rate): [] for rate in rates}
        for number, prompt in enumerate(prompts):
            plain = await client.answer(MODEL, prompt, how(False))
            speeds["plain"].append(plain.rate)
            for rate in rates:
                drafter.answer = spoilt(plain.tokens, rate, number)
                if played is not None:
                    played.plays(drafter.answer, rate)
                drafted = await client.answer(MODEL, prompt, how(True))
                if drafted.tokens != plain.tokens:
                    raise SystemExit("drafts changed a text")
                speeds[str(rate)].append(drafted.rate)
                passes[str(rate)].append(len(drafted.tokens) / drafted.stats.passes)
        for service in (drafter, speculator, client):
            await service.stop("measured")
    return {
        "speeds": {name: statistics.median(some) for name, some in speeds.items()},
        "tokens_a_pass": {name: statistics.median(some) for name, some in passes.items()},
    }


def theirs(launch: Launch, prompts: list[BenchPrompt], tokens: int) -> float:
    """Tokens a second of llama-server by its own clock, the median of the prompts."""
    speeds = list[float]()
    with llama_server(launch) as server:
        for prompt in prompts:
            messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
            body = {"messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            request = urllib.request.Request(
                f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=300) as answer:
                speeds.append(json.load(answer)["timings"]["predicted_per_second"])
    return statistics.median(speeds)


def with_rate(draft: Path | None, rate: float, length: int) -> tuple[str, ...]:
    """llama-server's options for drafts of this length, each accepted with this chance if those before it are; without
    a draft model they are those of the model's own head."""
    rates = ",".join(f"{rate ** (place + 1):.6f}" for place in range(length))
    author = ("-md", str(draft), "--spec-type", "draft-simple") if draft is not None else ("--spec-type", "draft-mtp")
    least = ("--spec-draft-n-min", "0", "--spec-draft-p-min", "0")
    return (*author, "--spec-draft-n-max", str(length), *least, "--spec-synth-rates", rates)


def measure(name: str, args: argparse.Namespace) -> None:
    """The rows of one model."""
    words, head = demo_model(CACHE, "q8_0"), name.endswith(WITH_HEAD)
    path = random_hybrid(CACHE, name.removesuffix(WITH_HEAD), words=words, head=head)
    draft = CACHE / "tiny-llama-draft.gguf"
    if not draft.exists():
        recipe("llama").write(draft, speaks=words)
    prompts = list(PROMPTS[: args.prompts])
    mine = asyncio.run(ours(path, args.rates, prompts, args.tokens, args.threads, head=head))
    plain = theirs(Launch(args.programs, path, (), 1, CTX_SIZE, args.threads), prompts, args.tokens)
    print(f"| {name} | plain | {mine['speeds']['plain']:.1f} | | {plain:.1f} | | |", flush=True)
    for rate in args.rates:
        found = {
            length: theirs(
                Launch(
                    args.programs, path, with_rate(None if head else draft, rate, length), 1, CTX_SIZE, args.threads
                ),
                prompts,
                args.tokens,
            )
            for length in args.lengths
        } | {0: plain}
        best = max(found, key=lambda length: found[length])
        speed, a_pass = mine["speeds"][str(rate)], mine["tokens_a_pass"][str(rate)]
        line = f"| {name} | {rate:.0%} | {speed:.1f} | {a_pass:.1f} | {found[best]:.1f} | {best}"
        print(f"{line} | {speed / found[best]:.2f}x |", flush=True)


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.6, 0.8, 0.95])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, help="llama-server's draft lengths")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--programs", type=Path, help="folder of llama-server")
    args = parser.parse_args()
    args.programs = programs_folder(args.programs)
    if args.programs is None:
        raise SystemExit("no llama-server is here: run contrib/benchmarks/build_peers.sh")
    print("| model | drafts that hold | twd tok/s | tokens a pass | llama-server's best | its drafts | twd to it |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        measure(name, args)


if __name__ == "__main__":
    main()
