"""The devices that a mixture could lie on, with measured speeds; those are kept for a day."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from twd.kit.json_cache import file_name, recall, remember
from twd.moe.placement import DeviceScore

if TYPE_CHECKING:
    from twd.engine.library import EngineDevice
    from twd.settings.model import WorkerConfig

FRESH_S: Final = 86_400.0
"""After so long, speeds are measured again."""
RTT_SAMPLES: Final = 5
CONNECT_S: Final = 2.0
CARD_RTT_S: Final = 20e-6
"""There and back to a card of this machine; assumed."""
ASSUMED_CARD: Final = 200e9
"""Bytes a second of a card whose memory has no room to be measured."""


class MeasuredSpeeds(msgspec.Struct, frozen=True):
    """What was measured, and when (seconds since 1970). Workers by address: seconds there and back."""

    at: float
    memory: float
    disk: float
    cards: dict[str, float] = {}
    workers: dict[str, float] = {}


def find_devices(
    cache: Path, model: Path, workers: "Sequence[WorkerConfig]" = (), *, refresh: bool = False
) -> list[DeviceScore]:
    """RPC workers, cards, and this machine's memory, in the order in which llama.cpp lists them.

    `cache` keeps what was measured; `model` lies on the disk that is measured.
    """
    from twd.engine.host_memory.limits import available_bytes
    from twd.engine.library import buffer_name, devices

    cards = [device for device in devices() if device.is_gpu]
    lent = _open_workers(workers)
    speeds = _speeds(cache, model, cards, [address for address, *_ in lent], refresh)
    away = [
        DeviceScore(f"RPC{number}[{address}]", memory, speeds.memory, speeds.workers.get(address, 1e-3))
        for number, address, memory in workers_in_order(lent)
    ]
    here = [
        DeviceScore(buffer_name(card), card.free_bytes, speeds.cards.get(card.name) or ASSUMED_CARD, CARD_RTT_S)
        for card in cards
    ]
    return [*away, *here, DeviceScore("CPU", available_bytes(), speeds.memory, disk=speeds.disk)]


def workers_in_order(workers: list[tuple[str, list[int]]]) -> list[tuple[int, str, int]]:
    """Each device of each worker: llama.cpp counts them within their worker."""
    return [(number, address, memory) for address, lent in workers for number, memory in enumerate(lent)]


def _open_workers(workers: "Sequence[WorkerConfig]") -> list[tuple[str, list[int]]]:
    """Addresses of the workers that answer, and the memory of their devices; the settings win."""
    return [found for found in (asyncio.run(_looked(one)) for one in workers) if found is not None]


async def _looked(worker: "WorkerConfig") -> tuple[str, list[int]] | None:
    from twd.engine.rpc.probe import RpcUnusable, look

    try:
        facts = await look(worker.host, worker.rpc_port)
    except (OSError, RpcUnusable):
        return None
    lent = [memory.free for memory in facts.devices]
    given = [int(gpu.vram_gb * 2**30) for gpu in worker.gpus]
    return f"{worker.host}:{worker.rpc_port}", given[: len(lent)] or lent


def _speeds(cache: Path, model: Path, cards: "list[EngineDevice]", workers: list[str], refresh: bool) -> MeasuredSpeeds:
    about = [sorted(card.name for card in cards), workers, model.stat().st_dev]
    path = cache / file_name("moe-speeds", about)
    kept = None if refresh else recall(path, MeasuredSpeeds)
    if kept is not None and 0 <= time.time() - kept.at < FRESH_S:
        return kept
    found = _measured(model, cards, workers)
    remember(path, found)
    return found


def _measured(model: Path, cards: "list[EngineDevice]", workers: list[str]) -> MeasuredSpeeds:
    from twd.engine.devices.speed import memory_speed
    from twd.engine.experts.disk import disk_speed
    from twd.engine.measuring.memory_speed import measure_bandwidth

    return MeasuredSpeeds(
        at=time.time(),
        memory=measure_bandwidth(),
        disk=disk_speed(model),
        cards={card.name: float(memory_speed(card)) for card in cards},
        workers={address: asyncio.run(_round_trip(address)) for address in workers},
    )


async def _round_trip(address: str) -> float:
    """The mean of some connections without the slowest."""
    host, _, port = address.rpartition(":")
    times = []
    for _ in range(RTT_SAMPLES):
        began = time.perf_counter()
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, int(port))
        times.append(time.perf_counter() - began)
        writer.close()
    return sum(sorted(times)[:-1]) / (RTT_SAMPLES - 1)
