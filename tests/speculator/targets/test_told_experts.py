"""A drafter of the same mixture tells what it chooses: more experts are there in time, and no text changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.backends.listener import MODEL, Listener, ctx, job
from tests.engine.experts.unlike import VOCABULARY, write_unlike
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.drafter.native import native_drafter
from twd.drafter.service import DrafterService
from twd.engine.experts.facts import StreamsExperts
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import Foresight, NativeExperts, can_tell_choices
from twd.kit.service import Effects, Service
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.native import native_speculator
from twd.wire.base import InstanceId, ModelId, SessionId
from twd.wire.draft import DrafterAttached, DraftProposed, SessionOpened
from twd.wire.job import JobFinished, Prompt, Sampling, Speculation, TokensAccepted
from twd.wire.leases.base import StreamedExperts
from twd.wire.prefix import prefix_hash

pytestmark = pytest.mark.skipif(
    not can_tell_choices(), reason="this build of llama.cpp does not tell what tokens choose"
)
PROMPT = [(5 * index + 2) % VOCABULARY for index in range(12)]
COUNT = 100
SHARE = 0.5
"""Of the experts, in memory."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unlike(tmp_path_factory.mktemp("unlike") / "unlike.gguf", layers=8, experts=16)


def settings(path: Path, home: Path, share: float = SHARE) -> Settings:
    layout = expert_layout(path)
    assert layout is not None
    model = ModelConfig(
        path=str(path),
        ctx_size=256,
        parallel=1,
        moe_stream="on" if share else "off",
        moe_memory_gb=max(share * layout.expert_bytes, 1) / 2**30,
    )
    return Settings(models={str(MODEL): model}, drafters=(DrafterConfig(path=str(path)),), home=str(home))


class Served:
    """A speculator on a bus in memory, and who asks it."""

    def __init__(self, broker: MemoryBroker, speculator: SpeculatorService, listener: Listener) -> None:
        self.broker = broker
        self.speculator = speculator
        self.listener = listener
        self._asked = 0

    async def answer(self, window: int) -> list[int]:
        """The tokens of one answer; with `window` drafts in each pass."""
        self._asked += 1
        name = f"job-{self._asked}"
        how = Speculation(enabled=window > 0, window=window, recall=False)
        wanted = job(
            name=name,
            prompt=Prompt(tokens=PROMPT),
            max_tokens=COUNT,
            ignore_eos=True,
            speculation=how,
            sampling=Sampling(repeat_last_n=-1, repeat_penalty=10.0, presence_penalty=10.0, frequency_penalty=10.0),
        )
        _, end = await self.listener.run(wanted, timeout_s=60.0)
        assert isinstance(end, JobFinished), end
        return [token for event in self.listener.of(TokensAccepted, name) for token in event.tokens]

    @property
    def experts(self) -> StreamedExperts:
        """What it tells of its experts."""
        found = self.speculator.facts().experts
        assert found is not None
        return found


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Served]:
    broker = MemoryBroker()
    listener = Listener(broker)
    await listener.listen()
    speculator = native_speculator(ctx(broker), settings, str(MODEL))
    await speculator.start()
    await speculator.settled.wait()
    assert speculator.loaded is not None, speculator.note
    try:
        yield Served(broker, speculator, listener)
    finally:
        await speculator.stop("over")


@asynccontextmanager
async def drafting(served: Served, settings: Settings, *, tells: bool) -> AsyncIterator[DrafterService]:
    drafter = native_drafter(ctx(served.broker, seed=2, node="far"), settings, 0)
    await drafter.start()
    await drafter.settled.wait()
    assert drafter._core is not None, drafter.note
    if not tells:
        drafter._core.chosen = None
    try:
        yield drafter
    finally:
        await drafter.stop("over")


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer with drafts, and what it brought of experts."""

    text: list[int]
    read_ahead: int
    """How many experts that the drafter named were not in memory, and were read before the pass that wants them."""
    experts: StreamedExperts
    drafts: list[DraftProposed]


def native_of(loaded: object) -> NativeExperts:
    assert isinstance(loaded, StreamsExperts)
    assert loaded.experts is not None
    return loaded.experts.native


def counting_reads(native: NativeExperts) -> list[int]:
    """How many experts are read for each call that names some; the list grows."""
    counts: list[int] = []
    foresee = native.foresee

    def counted(layers: npt.NDArray[np.int32], numbers: npt.NDArray[np.int32]) -> int:
        counts.append(foresee(layers, numbers))
        return counts[-1]

    native.foresee = counted  # type: ignore[method-assign]
    return counts


async def answered(settings: Settings, *, tells: bool) -> Answered:
    async with serving(settings) as served, drafting(served, settings, tells=tells):
        native = native_of(served.speculator.loaded)
        native.set_foresight(Foresight.ON)
        reads = counting_reads(native)
        text = await served.answer(6)
        return Answered(text, sum(reads), served.experts, served.listener.of(DraftProposed))


async def test_choices_of_a_drafter_of_the_same_file_are_read_ahead(path: Path, tmp_path: Path) -> None:
    async with serving(settings(path, tmp_path, share=0)) as whole:
        text = await whole.answer(0)
    silent = await answered(settings(path, tmp_path), tells=False)
    telling = await answered(settings(path, tmp_path), tells=True)
    assert silent.text == telling.text == text
    assert not any(draft.experts for draft in silent.drafts)
    assert any(draft.experts for draft in telling.drafts)
    assert silent.experts.told == telling.experts.told_unknown == 0
    assert telling.experts.told_right > 0.7 * telling.experts.told > 0
    assert telling.read_ahead > silent.read_ahead == 0


class Liar(Service):
    """Offers to draft, and sends guesses with experts that do not exist, or whose number fits no layers."""

    name = "liar"
    reads = (SessionOpened, TokensAccepted)
    writes = (DraftProposed, DrafterAttached)

    def __init__(self, broker: MemoryBroker, speculator: SpeculatorService) -> None:
        super().__init__(ctx(broker, seed=3, node="far"))
        assert speculator.loaded is not None
        self.vocab = speculator.loaded.facts.vocab
        self._text: list[int] = []
        self._session = SessionId("")

    def attach(self) -> None:
        """Offer to draft."""
        offer = DrafterAttached(
            drafter=self.instance, node=self.ctx.node, model=ModelId("u"), vocab=self.vocab, token_ms=0.1
        )
        self.emit(offer)

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """It is asked for experts."""
        assert event.wants_experts
        self._session, self._text = event.session, list(event.tokens)
        self._lie()
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Lie again."""
        self._text += event.tokens if event.at == len(self._text) else []
        self._lie()
        return None

    def _lie(self) -> None:
        lie = DraftProposed(
            session=self._session,
            model=MODEL,
            drafter=InstanceId(self.instance),
            at=len(self._text),
            prefix=prefix_hash(self._text),
            tokens=[1, 2, 3],
            confidence=[1.0] * 3,
            experts=[[32_767] * 16, [16, *[0] * 15], [3] * 17],
        )
        self.emit(lie)


async def test_experts_that_do_not_exist_are_dropped_and_counted(path: Path, tmp_path: Path) -> None:
    async with serving(settings(path, tmp_path)) as served:
        text = await served.answer(0)
        liar = Liar(served.broker, served.speculator)
        await liar.start()
        liar.attach()
        await until(lambda: bool(served.speculator.facts().drafters))
        assert await served.answer(6) == text
        await liar.stop("over")
        assert served.experts.told == 0
        assert served.experts.told_unknown >= 16 + 1 + 17
