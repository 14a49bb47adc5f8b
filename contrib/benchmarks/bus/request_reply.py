"""How much the bus adds to a request and its answer, against bare nats-py on the same server in the same run.

Each side has one client that asks and one that answers, all in this process on one uvloop. Both sides take
turns in short bursts, so that whatever else the machine does meets them alike.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import uvloop
from nats.aio.msg import Msg

from twd.bus.base import BusMessage
from twd.bus.broker import EmbeddedBroker
from twd.bus.nats.bus import NatsBus

SIZES = (64, 1024, 4096, 16384)
BURSTS = 40
BURST = 50
TARGET = 1.3

Ask = Callable[[bytes], Awaitable[object]]


async def bare_client(broker: EmbeddedBroker) -> Ask:
    """nats-py as it comes."""
    asker = await nats.connect(broker.address.url, token=broker.token)
    helper = await nats.connect(broker.address.url, token=broker.token)

    async def answer(message: Msg) -> None:
        await message.respond(message.data)

    await helper.subscribe("bare", cb=answer)
    await helper.flush()
    return lambda body: asker.request("bare", body, timeout=5)


async def our_bus(broker: EmbeddedBroker) -> Ask:
    """The same through NatsBus."""
    asker, helper = [await NatsBus.connect(broker.address, name=name) for name in ("asker", "helper")]

    def answer(message: BusMessage) -> None:
        helper.publish(message.reply, message.data)

    await helper.subscribe("ours", answer)
    return lambda body: asker.request("ours", body)


async def burst(ask: Ask, body: bytes, times_us: list[float]) -> None:
    """A few round trips, one after the other."""
    for _ in range(BURST):
        started = time.perf_counter()
        await ask(body)
        times_us.append((time.perf_counter() - started) * 1e6)


async def compare(bare: Ask, ours: Ask, size: int) -> tuple[list[float], list[float]]:
    """Round trip times of both, in microseconds."""
    body, discard = bytes(size), list[float]()
    bare_us: list[float] = []
    ours_us: list[float] = []
    await burst(bare, body, discard)
    await burst(ours, body, discard)
    for _ in range(BURSTS):
        await burst(bare, body, bare_us)
        await burst(ours, body, ours_us)
    return bare_us, ours_us


def percentile(times_us: list[float], share: float) -> float:
    """The time that `share` of all round trips stay under."""
    return statistics.quantiles(times_us, n=100)[round(share * 100) - 1]


async def measure(broker: EmbeddedBroker) -> bool:
    """Print one line a size; returns whether all are within the target."""
    while not await broker.ready():  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.02)
    bare, ours = await bare_client(broker), await our_bus(broker)
    print(f"{'bytes':>6} {'bare p50':>10} {'ours p50':>10} {'bare p99':>10} {'ours p99':>10} {'p50 ratio':>10}")
    good = True
    for size in SIZES:
        bare_us, ours_us = await compare(bare, ours, size)
        ratio = percentile(ours_us, 0.5) / percentile(bare_us, 0.5)
        good = good and ratio <= TARGET
        row = [percentile(times, share) for share in (0.5, 0.99) for times in (bare_us, ours_us)]
        print(f"{size:>6} " + " ".join(f"{us:>7.0f} us" for us in row) + f" {ratio:>10.2f}")
    print(json.dumps({"target": TARGET, "met": good}))
    return good


def main() -> int:
    """Start a broker of our own, measure, end it."""
    with tempfile.TemporaryDirectory() as home:
        broker = EmbeddedBroker(Path(home), port=0)
        broker.prepare()
        process = subprocess.Popen(broker.argv, stderr=subprocess.DEVNULL)
        try:
            good = uvloop.run(measure(broker))
        finally:
            process.terminate()
            process.wait(10)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
