"""A whole system in one process: the real services and engines on an in-memory bus, for proofs and experiments."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from twd.bench.client import BenchClient
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.drafter.native import native_drafter
from twd.drafter.service import DrafterService
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Effects, Service, ServiceContext
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.native import native_speculator
from twd.wire.base import ModelId, NodeId, SessionId
from twd.wire.draft import DrafterAttached, DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import TokensAccepted
from twd.wire.model import ModelReady, VocabFingerprint
from twd.wire.prefix import prefix_hash
from twd.wire.service import Health

MODEL = ModelId("target")


class LyingDrafter(Service):
    """A hostile drafter: sends random tokens at any position, with full confidence."""

    name = "hostile"
    reads = (SessionOpened, SessionClosed, TokensAccepted, ModelReady)
    writes = (DraftProposed, DrafterAttached)

    def __init__(self, ctx: ServiceContext, seed: int) -> None:
        super().__init__(ctx)
        self._random = random.Random(seed)
        self._texts: dict[SessionId, list[int]] = {}
        self._models: dict[SessionId, ModelId] = {}
        self._vocab: VocabFingerprint | None = None

    def on_model_ready(self, event: ModelReady) -> Effects:
        """Offer to draft for this model."""
        self.attach(event.facts.vocab)
        return None

    def attach(self, vocab: VocabFingerprint) -> None:
        """Offer to draft for every model of this vocabulary."""
        self._vocab = vocab
        self.emit(
            DrafterAttached(drafter=self.instance, node=NodeId("far"), model=ModelId("liar"), vocab=vocab, token_ms=0.1)
        )

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """Remember the session, and send random drafts for it."""
        self._texts[event.session], self._models[event.session] = list(event.tokens), event.model
        self._lie(event.session)
        return None

    def on_session_closed(self, event: SessionClosed) -> Effects:
        """Forget the session."""
        self._texts.pop(event.session, None)
        self._models.pop(event.session, None)
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Send random drafts again."""
        text = self._texts.get(event.session)
        if text is not None and len(text) == event.at:
            text += event.tokens
            self._lie(event.session)
        return None

    def _lie(self, session: SessionId) -> None:
        if self._vocab is None:  # a session was opened before the vocabulary was known
            return
        text, dice = self._texts[session], self._random
        at = max(0, len(text) - dice.choice((0, 0, 0, 1, 5)))
        tokens = [dice.randrange(self._vocab.tokens) for _ in range(dice.randint(1, 12))]
        prefix = prefix_hash(text[:at]) if dice.random() < 0.8 else dice.getrandbits(50)
        confidence = [1.0] * len(tokens)
        self.emit(
            DraftProposed(
                session=session,
                drafter=self.instance,
                at=at,
                prefix=prefix,
                tokens=tokens,
                confidence=confidence,
                model=self._models[session],
            )
        )


class InProcessSystem:
    """One target and any drafters, started and stopped at will."""

    def __init__(self, target: Path, *, ctx_size: int = 1024, parallel: int = 2, insist: bool = False) -> None:
        self._broker = MemoryBroker()
        model = ModelConfig(path=str(target), ctx_size=ctx_size, parallel=parallel, exact=insist or "auto")
        self._settings = Settings(models={str(MODEL): model})
        self.speculator: SpeculatorService = native_speculator(self._ctx("a"), self._settings, str(MODEL))
        self.client = BenchClient(self._ctx("a"))
        self._services: list[Service] = [self.speculator, self.client]

    def _ctx(self, node: str) -> ServiceContext:
        return ServiceContext(bus=self._broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids())

    async def start(self) -> None:
        """Load the target."""
        await self.client.start()
        await self.speculator.start()
        await _healthy(self.speculator)

    async def drafter(self, path: Path, node: str = "a", threads: int = 0) -> DrafterService:
        """Start a drafter."""
        entry = DrafterConfig(path=str(path), threads=threads or "auto")
        settings = Settings(models=self._settings.models, drafters=(entry,))
        drafter = native_drafter(self._ctx(node), settings, 0)
        self._services.append(drafter)
        await drafter.start()
        await _healthy(drafter)
        return drafter

    async def hostile(self, seed: int, vocab: VocabFingerprint) -> LyingDrafter:
        """Start a hostile drafter."""
        liar = LyingDrafter(self._ctx("far"), seed)
        self._services.append(liar)
        await liar.start()
        liar.attach(vocab)
        return liar

    async def kill(self, service: Service) -> None:
        """End a service like a killed process: it sends nothing more, and its lease stays."""
        assert isinstance(service.bus, MemoryBus)
        service.bus.cut_off = True
        await service.stop("killed")
        service.bus.kill()

    async def stop(self) -> None:
        """Stop all services."""
        for service in reversed(self._services):
            await service.stop("lab closed")


@asynccontextmanager
async def lab(
    target: Path, *, ctx_size: int = 1024, parallel: int = 2, insist: bool = False
) -> AsyncIterator[InProcessSystem]:
    """Yield a system and stop it at the end. `insist`: exact on a GPU, too."""
    made = InProcessSystem(target, ctx_size=ctx_size, parallel=parallel, insist=insist)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def _healthy(service: SpeculatorService | DrafterService, timeout_s: float = 120.0) -> None:
    """Wait until a service has loaded its model."""
    async with asyncio.timeout(timeout_s):
        await service.settled.wait()
    if service.health is not Health.OK:
        raise RuntimeError(f"{service.name} is {service.health}: {service.note}")
