"""The other side of the bus in tests: submits jobs and keeps what is told of them."""

import asyncio
import random
from typing import TypeVar

from tests.signed import signed
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, ServiceContext
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.failures import Failure
from twd.wire.job import (
    ChatMessage,
    JobFailed,
    JobFinished,
    JobQueued,
    JobSubmitted,
    Prompt,
    Sampling,
    TokensAccepted,
)
from twd.wire.routes import EVERYTHING, subject_of

E = TypeVar("E", bound=Event)
MODEL = ModelId("big")
OWNER = InstanceId("edge.n.x")
AN_HOUR_S = 3600.0


def ctx(broker: MemoryBroker, seed: int = 1, node: str = "n") -> ServiceContext:
    """Surroundings on the memory broker, with seeded ids."""
    return ServiceContext(
        bus=broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids(random.Random(seed))
    )


def job(text: str = "once upon", name: str = "job-1", **fields: object) -> JobSubmitted:
    """A job that continues a text."""
    prompt = fields.pop("prompt", Prompt(text=text))
    sampling = fields.pop("sampling", Sampling(seed=7))
    return JobSubmitted(
        job=JobId(name),
        model=MODEL,
        owner=OWNER,
        prompt=prompt,  # type: ignore[arg-type]
        sampling=sampling,  # type: ignore[arg-type]
        **({"max_tokens": 8} | fields),  # type: ignore[arg-type]
    )


def chat(*said: str) -> Prompt:
    """A conversation in which only the user spoke."""
    return Prompt(messages=[ChatMessage(role="user", content=text) for text in said])


class Listener:
    """Hears everything; the registry says that it lives, as the owner of all jobs."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.bus = broker.connect("listener")
        self.events: list[Event] = []

    async def listen(self) -> None:
        await self.bus.subscribe(EVERYTHING, lambda message: self._keep(message.data))
        await self.registers(OWNER)

    async def registers(self, instance: InstanceId) -> None:
        """Somebody who lives as long as any test: whoever is counted on and not in the registry is gone."""
        await (await self.bus.leases(LEASE_BUCKET, AN_HOUR_S)).put(instance, b"{}")

    def _keep(self, data: bytes) -> None:
        event = decode(data)
        assert isinstance(event, Event), event
        self.events.append(event)

    def of(self, kind: type[E], name: str = "") -> list[E]:
        """What was told of one kind, and of one job."""
        return [e for e in self.events if isinstance(e, kind) and (not name or getattr(e, "job", "") == name)]

    async def submit(self, wanted: JobSubmitted) -> JobQueued | JobFailed:
        """Hand in a job; returns the answer."""
        answer = decode(await self.bus.request(subject_of(signed(wanted)), encode(signed(wanted)), timeout_s=5.0))
        assert isinstance(answer, JobQueued | JobFailed), answer
        return answer

    async def publish(self, event: Event) -> None:
        """Tell everybody."""
        self.bus.publish(subject_of(signed(event)), encode(signed(event)))
        await asyncio.sleep(0)

    async def run(self, wanted: JobSubmitted, timeout_s: float = 10.0) -> tuple[str, JobFinished | Failure]:
        """A job from its submission to its one end: the text, and the end."""
        answer = await self.submit(wanted)
        if isinstance(answer, JobFailed):
            return "", answer.failure
        await until(lambda: bool(self.ends(wanted.job)), timeout_s=timeout_s)
        return self.text(wanted.job), self.end(wanted.job)

    def text(self, name: str) -> str:
        """The text of a job, checked for order."""
        pieces = [event for event in self.of(TokensAccepted, name) if event.text]
        assert [event.index for event in pieces] == list(range(len(pieces)))
        return "".join(event.text for event in pieces)

    def ends(self, name: str) -> list[JobFinished | JobFailed]:
        """How a job ended; more than one is a mistake."""
        return [*self.of(JobFinished, name), *self.of(JobFailed, name)]

    def end(self, name: str) -> JobFinished | Failure:
        """How a job ended."""
        (end,) = self.ends(name)
        return end.failure if isinstance(end, JobFailed) else end
