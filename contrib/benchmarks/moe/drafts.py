#!/usr/bin/env python3
"""What drafts bring and cost a mixture in memory for a part of its file: drafts.py MODEL.gguf [--shares 0.8 0.6]

The same prompts are answered plain and with drafts in turns; drafts are always right, right with the experts that the
tokens chose before (`told`), or random with full confidence.
Texts are drawn with a seed, so they are the same each time. The drafter is elsewhere: it costs this machine nothing.
"""

import argparse
import asyncio
import json
import random
import tempfile
from pathlib import Path

from twd.bench.client import BenchClient, BenchRequest, MeasuredAnswer
from twd.bench.prompts import PROMPTS
from twd.bus.memory.bus import MemoryBroker
from twd.drafter.told_experts import Chosen, told_choices
from twd.engine.experts.facts import StreamsExperts
from twd.engine.experts.layout import expert_layout
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Effects, Service, ServiceContext
from twd.settings.model import ModelConfig, NgramConfig, Settings, SpeculationConfig
from twd.speculator.targets.native import native_speculator
from twd.wire.base import ModelId, NodeId, SessionId
from twd.wire.draft import DrafterAttached, DraftGranted, DraftProposed, SessionOpened
from twd.wire.job import Sampling, Speculation, TokensAccepted
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

MODEL = ModelId("mixture")
AHEAD = 16


class KnowingDrafter(Service):
    """Sends the answer that it was given, from where the text is, or random tokens; rests when it is told to. One
    session at a time."""

    name = "knowing"
    reads = (SessionOpened, TokensAccepted, DraftGranted)
    writes = (DraftProposed, DrafterAttached)

    def __init__(self, ctx: ServiceContext, vocab: VocabFingerprint) -> None:
        super().__init__(ctx)
        self.vocab = vocab
        self.answer: list[int] = []
        """Empty: it guesses at random."""
        self.chosen: Chosen | None = None
        """If given, drafts come with experts."""
        self._session, self._model = SessionId(""), MODEL
        self._text: list[int] = []
        self._prompt = self._credit = 0
        self._dice = random.Random(1)

    def attach(self) -> None:
        """Offer to draft."""
        there = NodeId("far")
        self.emit(
            DrafterAttached(drafter=self.instance, node=there, model=ModelId("knowing"), vocab=self.vocab, token_ms=0.1)
        )

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """Begin a text."""
        self._session, self._model = event.session, event.model
        self._text, self._prompt, self._credit = list(event.tokens), len(event.tokens), event.credit
        self._propose()
        return None

    def on_draft_granted(self, event: DraftGranted) -> Effects:
        """Go on, or rest."""
        if event.session == self._session and event.drafter == self.instance:
            self._credit = event.credit
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Go on."""
        if event.session == self._session and event.at == len(self._text):
            self._text += event.tokens
            self._propose()
        return None

    def _propose(self) -> None:
        said = len(self._text) - self._prompt
        tokens = self.answer[said : said + AHEAD]
        if not self.answer:
            tokens = [self._dice.randrange(self.vocab.tokens) for _ in range(AHEAD)]
        read = [self._text[-1], *tokens[:-1]]
        if tokens and self._credit:
            self.emit(
                DraftProposed(
                    session=self._session,
                    model=self._model,
                    drafter=self.instance,
                    at=len(self._text),
                    prefix=prefix_hash(self._text),
                    tokens=tokens,
                    confidence=[1.0] * len(tokens),
                    experts=told_choices(self.chosen, read) if self.chosen is not None else [],
                )
            )


def moe_memory(path: Path, share: float) -> float:
    """GiB that are left for experts if memory holds such a share of the file."""
    layout = expert_layout(path)
    if layout is None:
        raise SystemExit(f"{path} has no fused experts")
    return max(0.001, (share * path.stat().st_size - layout.dense_bytes) / 2**30)


async def measure(args: argparse.Namespace, share: float, way: str, home: str) -> None:
    """Plain and with drafts in turns, in this process."""
    broker = MemoryBroker()

    def context(node: str) -> ServiceContext:
        return ServiceContext(bus=broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids())

    model = ModelConfig(
        path=str(args.model),
        ctx_size=1024,
        parallel=1,
        threads=args.threads or "auto",
        moe_stream="on",
        moe_memory_gb=moe_memory(args.model, share),
    )
    speculation = SpeculationConfig(ngram=NgramConfig(enabled=args.ngram))
    settings = Settings(models={str(MODEL): model}, home=home, speculation=speculation)
    speculator = native_speculator(context("here"), settings, str(MODEL))
    client = BenchClient(context("here"))
    services: list[Service] = [client, speculator]
    for service in services:
        await service.start()
    await speculator.settled.wait()
    if speculator.loaded is None:
        raise SystemExit(speculator.note)
    drafter = KnowingDrafter(context("far"), speculator.loaded.facts.vocab)
    loaded = speculator.loaded
    if way == "told" and isinstance(loaded, StreamsExperts) and loaded.experts is not None:
        drafter.chosen = loaded.experts.chosen
    services.append(drafter)
    await drafter.start()
    drafter.attach()
    sampling = Sampling(temperature=args.temperature, seed=args.seed)
    prompts = list(PROMPTS[: args.prompts])

    async def ask(number: int, drafts: bool) -> MeasuredAnswer:
        how = BenchRequest(Speculation(enabled=drafts), args.tokens, sampling)
        return await client.answer(MODEL, prompts[number], how)

    answers = [(await ask(number, False)).tokens for number in range(len(prompts))]  # warms the cache, too
    spent: dict[bool, list[float]] = {False: [], True: []}
    passes = checked = 0
    equal = True
    for _ in range(args.rounds):
        for number, answer in enumerate(answers):
            drafter.answer = [] if way == "random" else answer
            for drafts in (False, True, False, True):
                said = await ask(number, drafts)
                equal = equal and said.tokens == answer
                spent[drafts].append(said.stats.decode_ms / max(1, len(said.tokens) - 1))
                passes += said.stats.passes if drafts else 0
                checked += said.stats.checked
    told = speculator.facts().experts
    assert told is not None
    for service in reversed(services):
        await service.stop("measured")
    plain, drafted = (sum(spent[drafts]) / len(spent[drafts]) for drafts in (False, True))
    line = {
        "share": share,
        "drafts": way,
        "equal": equal,
        "hits": round(told.hits / max(1, told.asked), 3),
        "foreseen_used": round(told.foreseen_used / max(1, told.foreseen), 2),
        "told_right": round(told.told_right / told.told, 2) if told.told else None,
        "plain_tok_s": round(1000 / plain, 2),
        "tok_s": round(1000 / drafted, 2),
        "to_plain": round(plain / drafted, 3),
        "tokens_a_pass": round(len(spent[True]) * args.tokens / max(1, passes), 2),
        "checked": checked,
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """One line for each share of memory and kind of drafts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.6], help="of the file, in memory")
    parser.add_argument(
        "--ways", nargs="+", default=["perfect", "told", "random"], choices=["perfect", "told", "random"]
    )
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--ngram", action="store_true", help="drafts from the text itself, too")
    args = parser.parse_args()
    for share in args.shares:
        for way in args.ways:
            with tempfile.TemporaryDirectory() as home:
                asyncio.run(measure(args, share, way, home))


if __name__ == "__main__":
    main()
