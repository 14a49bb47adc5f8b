"""A speculator whose target is a fake server, for tests."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.toy import EMOJI, TOY
from tests.backends.listener import Listener
from tests.backends.rigs import echoing
from tests.waiting import until
from twd.speculator.service import SpeculatorService
from twd.wire.failures import Failure
from twd.wire.job import (
    JobFinished,
    JobSubmitted,
    TokensAccepted,
)

SERVERS: list[tuple[str, Callable[[], OpenAiServer]]] = [("vllm", FakeVllm), ("sglang", FakeSglang), ("echo", echoing)]
LOOPING = " now and then and now and then and now and then and now and then"


@dataclass
class Tower:
    """A real speculator whose target is a fake server."""

    server: OpenAiServer
    ear: Listener
    speculator: SpeculatorService

    async def run(self, asked: JobSubmitted) -> tuple[str, JobFinished | Failure]:
        """A job to its end."""
        await self.ear.submit(asked)
        await until(lambda: bool(self.ear.ends(asked.job)), timeout_s=20)
        return "".join(event.text for event in self.ear.of(TokensAccepted, asked.job)), self.ear.end(asked.job)


OpenTower = Callable[..., Awaitable[Tower]]


def emoji_start() -> str:
    return next(f"{w} it" for w in ("one", "two", "now", "who") if EMOJI in TOY.shown(text_of(f"{w} it")))


def text_of(start: str) -> list[int]:
    return TOY.generate(TOY.tokenize(start), 60)
