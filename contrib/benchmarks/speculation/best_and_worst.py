"""What drafts bring at best and cost at worst: n-gram drafts where the model copies, and a drafter that only lies.

    .venv/bin/python contrib/benchmarks/speculation/best_and_worst.py

Each prompt is answered plain, drafted and plain again in turn, `--rounds` times; a prompt's ratio is that of the median
drafted speed to the median of all plain ones, before and after. The second plain answers beside the first tell how far
a prompt's speed differs by itself.
The first system has n-gram drafts alone and is asked to repeat and to edit; of these prompts, those count whose
answer was a copy: at least `--copied` of its words continue three words that stood in that order before. The second
has no drafts but those of a liar elsewhere, who offers random tokens with full confidence, and is asked everything.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness import MODEL, System, client_of, until, weights

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.lab import LyingDrafter
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.bench.session import facts_of, find_speculator
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.process.cores import usable_cores
from twd.wire.base import NodeId
from twd.wire.job import ChatMessage, Speculation
from twd.wire.model import VocabFingerprint

PLAIN, DRAFTED = Speculation(enabled=False), Speculation()
RUN = 3
"""Words that must have stood together before what follows them counts as copied."""

_HARBOUR = (
    "The old harbour lies below the town. In the morning the boats come in with the night's catch, and the gulls "
    "follow them to the quay. The fishermen mend their nets while the buyers walk from boat to boat and name "
    "their prices. By noon the quay is empty again, and only the smell of salt and tar is left."
)
_CODE = """```python
def area(width, height):
    return width * height

def volume(width, height, depth):
    return area(width, height) * depth

print(volume(2, 3, 4))
```"""
_CITIES = "1. Vienna\n2. Brussels\n3. Sofia\n4. Zagreb\n5. Prague\n6. Copenhagen\n7. Tallinn"


def _talk(*turns: str) -> BenchPrompt:
    messages = (ChatMessage(role="assistant" if at % 2 else "user", content=turn) for at, turn in enumerate(turns))
    return BenchPrompt("copy", tuple(messages))


COPIES = [
    *(prompt for prompt in PROMPTS if prompt.kind == "edit"),
    _talk(f"Repeat this text word for word:\n\n{_HARBOUR}"),
    _talk(f"{_HARBOUR}\n\nRepeat the text above exactly."),
    _talk(f"Correct the spelling of this text and print the whole text: {_HARBOUR}"),
    _talk(f"Repeat this list exactly:\n\n{_CITIES}"),
    _talk("Write a function that computes a volume.", _CODE, "Print the whole code again, with a comment at the top."),
]


@dataclass(frozen=True)
class Row:
    """One prompt, plain and drafted."""

    prompt: BenchPrompt
    plain: float
    drafted: float
    by_itself: float
    """Plain once more, to plain before."""
    tokens_a_pass: float
    checked: int
    copied: float
    equal: bool

    @property
    def ratio(self) -> float:
        """How many times faster with drafts."""
        return self.drafted / self.plain

    def print(self) -> None:
        """One line of the table."""
        asked = " ".join(self.prompt.messages[-1].content.split())[:40]
        speeds = f"{self.plain:6.1f} -> {self.drafted:6.1f} tok/s, {self.ratio:5.3f}x (plain: {self.by_itself:5.3f}x)"
        checked = f"{self.tokens_a_pass:4.1f} a pass, {self.checked:4} guesses checked"
        equal = "equal" if self.equal else "DIFFERENT"
        print(
            f"  {self.prompt.kind:<10} {asked:<40} {speeds}, {checked}, {self.copied:4.0%} copied, {equal}", flush=True
        )


def copied(prompt: BenchPrompt, answer: str) -> float:
    """The share of an answer's words that continue what stood in the same order before, here or in the prompt."""
    words = " ".join(message.content for message in prompt.messages).split()
    seen = {tuple(words[at : at + RUN + 1]) for at in range(len(words) - RUN)}
    said = answer.split()
    known = 0
    for at in range(RUN, len(said)):
        run = tuple(said[at - RUN : at + 1])
        known += run in seen
        seen.add(run)
    return known / max(1, len(said) - RUN)


async def compare(
    client: BenchClient, prompts: Sequence[BenchPrompt], rounds: int, how: BenchRequest, drafted: BenchRequest
) -> list[Row]:
    """Each prompt in turn, plain, drafted and plain in turn."""
    rows = []
    for prompt in prompts:
        answers = [[await client.answer(MODEL, prompt, each) for each in (how, drafted, how)] for _ in range(rounds)]
        before, fast, after = ([turn[which].rate for turn in answers] for which in (0, 1, 2))
        plain, by_itself = median(before + after), median(after) / median(before)
        equal = len({tuple(one.tokens) for turn in answers for one in turn}) == 1
        told = answers[-1][1]
        a_pass = len(told.tokens) / max(1, told.stats.passes)
        rows.append(
            Row(prompt, plain, median(fast), by_itself, a_pass, told.stats.checked, copied(prompt, told.text), equal)
        )
        rows[-1].print()
    return rows


def asks(max_tokens: int, *, ignore_eos: bool) -> tuple[BenchRequest, BenchRequest]:
    """How to ask, plain and drafted."""
    plain, drafted = (BenchRequest(how, max_tokens, ignore_eos=ignore_eos) for how in (PLAIN, DRAFTED))
    return plain, drafted


@asynccontextmanager
async def served(target: Path, ngram: bool, threads: int) -> AsyncIterator[tuple[System, BenchClient]]:
    """A system with this target and no draft model, warmed up."""
    model = {"path": str(target), "ctx_size": 1024, "parallel": 2, "threads": threads}
    home = Path(tempfile.mkdtemp(prefix="twd-best-and-worst-"))
    system = System(home, {"models": {str(MODEL): model}, "speculation": {"ngram": {"enabled": ngram}}})
    system.start()
    try:
        async with client_of(system) as client:
            for speculation in (PLAIN, DRAFTED):
                await client.answer(MODEL, PROMPTS[0], BenchRequest(speculation, 24))
            yield system, client
    finally:
        system.stop()


@asynccontextmanager
async def liar(system: System, client: BenchClient, vocab: VocabFingerprint) -> AsyncIterator[LyingDrafter]:
    """A drafter of random tokens, as if on another machine."""
    async with system.ctx().bus("drafter") as bus:
        hostile = LyingDrafter(ServiceContext(bus=bus, node=NodeId("far"), clock=SystemClock(), ids=Ids()), seed=1)
        await hostile.start()
        hostile.attach(vocab)

        async def attached() -> bool:
            return bool(facts_of(await find_speculator(client, "")).drafters)

        await until(attached, "the liar is attached")
        try:
            yield hostile
        finally:
            await hostile.stop("done")


async def at_best(target: Path, args: argparse.Namespace) -> list[Row]:
    """N-gram drafts alone, where there is something to copy."""
    async with served(target, ngram=True, threads=args.threads) as (_, client):
        print("n-gram drafts alone:", flush=True)
        how = asks(args.max_tokens, ignore_eos=False)
        return await compare(client, COPIES, args.rounds, *how)


async def at_worst(target: Path, args: argparse.Namespace) -> list[Row]:
    """A liar's drafts alone."""
    loaded = LoadedGguf.load(ModelLoadOptions(target, vocab_only=True))
    vocab = loaded.vocab.fingerprint()
    loaded.close()
    async with served(target, ngram=False, threads=args.threads) as (system, client), liar(system, client, vocab):
        print("a liar's drafts alone:", flush=True)
        how = asks(args.max_tokens, ignore_eos=True)
        return await compare(client, PROMPTS[:: args.every], args.rounds, *how)


async def main(args: argparse.Namespace) -> None:
    target = weights(args.target)
    best, worst = await at_best(target, args), await at_worst(target, args)
    copies = [row.ratio for row in best if row.copied >= args.copied]
    lies = [row.ratio for row in worst]
    same = sum(row.equal for row in (*best, *worst))
    print(f"equal texts: {same} of {len(best) + len(worst)}")
    if copies:
        print(f"n-gram, {len(copies)} prompts that are copied: median {median(copies):.2f}x, least {min(copies):.2f}x")
    else:
        print("n-gram: the model copied nothing")
    print(f"a liar, {len(lies)} prompts: median {median(lies):.3f}x, least {min(lies):.3f}x")
    by_itself = [row.by_itself for row in worst]
    print(f"plain beside itself, the same prompts: median {median(by_itself):.3f}x, least {min(by_itself):.3f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="f32", help="q4_0, q8_0, f16 or f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--every", type=int, default=1, help="ask the liar's system every n-th prompt")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the engine")
    parser.add_argument("--copied", type=float, default=0.8, help="share of an answer that makes it a copy")
    asyncio.run(main(parser.parse_args()))
