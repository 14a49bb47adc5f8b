"""Any message on any subject from anybody: counted and told, never a crash, and real jobs go on beside it."""

import logging
import random

import pytest

from tests.flows.random_events import EventMaker
from tests.sim.engines import RealDrafter, RealSpeculator, played_engines
from tests.sim.virtual_loop import VirtualLoop
from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import BenchPrompt
from twd.bus.base import BusMessage
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import LoopClock
from twd.kit.ids import Ids
from twd.kit.service import Service, ServiceContext
from twd.metrics.service import MetricsService
from twd.settings.model import Settings
from twd.wire.base import ModelId, NodeId
from twd.wire.codec import decode
from twd.wire.job import JobStarted, Speculation
from twd.wire.routes import ROUTE_OF, Delivery
from twd.wire.service import ServiceFaulted

MESSAGES = 400


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(4, 12))]
)
def test_nonsense_on_every_subject_is_survived(seed: int, tmp_path: object) -> None:
    faults: list[ServiceFaulted] = []
    with played_engines():
        VirtualLoop(turns_max=5_000_000).run_until_complete(_play(seed, faults, Settings(home=str(tmp_path))))
    assert faults == []


async def _play(seed: int, faults: list[ServiceFaulted], settings: Settings) -> None:
    broker, ids = MemoryBroker(seed), Ids(random.Random(seed))

    def ctx(node: str) -> ServiceContext:
        log = logging.getLogger("nonsense")
        return ServiceContext(bus=broker.connect(node), node=NodeId(node), clock=LoopClock(), ids=ids, log=log)

    speculator, drafter, client = RealSpeculator(ctx("a")), RealDrafter(ctx("b")), BenchClient(ctx("c"))
    services: list[Service] = [MetricsService(ctx("a"), settings), speculator, drafter, client]
    for service in services:
        await service.start()
    await speculator.settled.wait()
    await drafter.settled.wait()
    stranger, maker = broker.connect("stranger"), EventMaker(seed)
    maker.known = {"drafter": [drafter.instance, "d"], "model": ["m"], "vocab": [], "session": ["s"], "job": ["j"]}
    maker.known.pop("vocab")

    def listen(message: BusMessage) -> None:
        event = decode(message.data)
        if isinstance(event, ServiceFaulted) and event.source in {service.instance for service in services}:
            faults.append(event)
        if isinstance(event, JobStarted) and event.source == speculator.instance:
            maker.known["session"].append(event.session)
            maker.known["job"].append(event.job)

    for pattern in ("twd.v1.service.faulted", ROUTE_OF[JobStarted].pattern):
        await stranger.subscribe(pattern, listen)
    prompt = BenchPrompt("code", ())
    how = BenchRequest(Speculation(), max_tokens=24, timeout_s=500.0)
    for _ in range(3):
        answering = client.tasks.start("ask", client.answer(ModelId("m"), prompt, how))
        for _ in range(MESSAGES // 3):
            subject, data = maker.message()
            route = next((one for one in ROUTE_OF.values() if subject.startswith(one.tag)), None)
            asks = route is not None and route.delivery is Delivery.REQUEST
            stranger.publish(subject, data, reply="_INBOX.stranger" if asks else "")
        done = await _outcome(answering)
        assert done == "" or "cancel" in done or "busy" in done or "waiting" in done, done
    for service in reversed(services):
        await service.stop()


async def _outcome(answering: object) -> str:
    from twd.wire.failures import TwdError

    try:
        await answering  # type: ignore[misc]
    except TwdError as error:
        return str(error).lower()
    return ""
