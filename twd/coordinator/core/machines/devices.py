"""Turns machines, as agents describe them, into devices that can hold layers. The settings take precedence."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from twd.coordinator.core.machines.computers import told_once
from twd.coordinator.core.machines.configured_devices import doubts, given, with_given
from twd.coordinator.core.machines.device_names import GIVEN, device_name, unbuilt, usable
from twd.coordinator.core.pass_time import CPU_KINDS, CPU_LAYER_S, CPU_TOKEN_S, DISK_SPEED, Measured, Reading, learned
from twd.coordinator.core.placement.values import PlacementDevice
from twd.settings.model import PoolConfig
from twd.wire.base import NodeId
from twd.wire.node import CPU, GpuFacts, MeasuredStep, NodeFacts

CPU_SPEED: Final = 15e9
CPU_WINDOW: Final = 3.0
GPU_SPEEDS: Final = {
    "cuda": 400e9,
    "hip": 400e9,
    "metal": 150e9,
    "vulkan": 200e9,
    GIVEN: 400e9,
    "musa": 300e9,
    "cann": 300e9,
    "sycl": 200e9,
    "opencl": 100e9,
}
SHARED_SPEED: Final = 60e9
GPU_WINDOW: Final = 1.2
"""Estimates where nothing was measured: bytes of weights read in a second, and how many times a window of 8 costs one
token."""
GPU_SHARE: Final = 0.6
"""The share of a GPU's memory bandwidth that a step reaches: its kernels are short, and each has to start."""
SHARED_FOR_HOME: Final = 0.1


@dataclass(frozen=True)
class UsableDevices:
    """The usable devices, and notes on what is left out and why."""

    devices: tuple[PlacementDevice, ...]
    homes: Mapping[str, PlacementDevice]
    """The CPU of each machine."""
    notes: tuple[str, ...] = ()


def find_devices(nodes: Iterable[NodeFacts], pool: PoolConfig, home: NodeId) -> UsableDevices:
    """Return every usable device, the home machine's first; notes name machines that may not be used."""
    known = (with_given(facts, pool, home) for facts in nodes)
    ordered = sorted(known, key=lambda facts: (facts.node != home, facts.node))
    at_home = next((facts for facts in ordered if facts.node == home), None)
    devices: list[PlacementDevice] = []
    notes: list[str] = []
    homes: dict[str, PlacementDevice] = {}
    for facts in ordered:
        homes[facts.node] = processor(facts)
        if facts.guest:
            devices += _lent(facts)
            notes += [f"{facts.node} is left out: {one.note}" for one in facts.processes if one.note]
            continue
        why = "" if facts.node == home else unusable(facts, pool, at_home)
        if why:
            notes.append(f"{facts.node} is left out: {why}")
            continue
        named = given(facts)
        devices += _given(facts.node, named) if named else _detected(facts, homes[facts.node])
        notes += [*doubts(facts), *_unbuilt(facts)]
    notes += told_once(ordered)
    return UsableDevices(tuple(devices), homes, tuple(notes))


def _unbuilt(facts: NodeFacts) -> Iterator[str]:
    for name, lacks, mend in unbuilt(facts):
        yield f"{name} of {facts.node} is left out: llama.cpp there was built without {lacks} ({mend})"


def processor(facts: NodeFacts) -> PlacementDevice:
    """Return a machine's CPU with its memory as a device."""
    free = facts.memory.available
    if any(gpu.shared for gpu in usable(facts)):
        free = int(free * SHARED_FOR_HOME)
    device = PlacementDevice(facts.node, CPU, free, facts.cpu.bandwidth or CPU_SPEED, CPU_WINDOW)
    disk = float(max((disk.read_bytes_s for disk in facts.disks), default=0)) or DISK_SPEED
    known = replace(device, kinds=CPU_KINDS, layer_s=CPU_LAYER_S, token_s=CPU_TOKEN_S, disk=disk)
    return _by_experience(known, [one for one in facts.cpu.measured if not one.device])


def _by_experience(device: PlacementDevice, measured: Sequence[MeasuredStep]) -> PlacementDevice:
    """Correct a device's estimates by the times that models were measured to take on it."""
    known = learned(device.pace, [_measured(one) for one in measured])
    windows = [one.window for one in measured if one.window >= 1.0]
    factor = median(windows) if windows else device.window_factor
    return replace(device, slower=known.slower, usually=known.usually, window_factor=factor)


def _measured(one: MeasuredStep) -> Measured:
    kinds = tuple((kind.kind, kind.share) for kind in one.kinds)
    return Measured(Reading(one.layers, one.weight_bytes, kinds, 0.0, one.head_bytes, one.head_kind), one.ms / 1000)


def _detected(facts: NodeFacts, own: PlacementDevice) -> Iterator[PlacementDevice]:
    gpus = usable(facts)
    for gpu in gpus:
        if gpu.shared:
            rest = int(facts.memory.available * (1 - SHARED_FOR_HOME))
            yield _card(facts, gpu, min(gpu.free, rest))
        else:
            yield _card(facts, gpu, gpu.free)
    if not any(gpu.shared for gpu in gpus):
        yield own


def _card(facts: NodeFacts, gpu: GpuFacts, free: int) -> PlacementDevice:
    device = PlacementDevice(facts.node, device_name(gpu), free, _speed(gpu), GPU_WINDOW)
    return _by_experience(device, gpu.measured)


def _lent(facts: NodeFacts) -> Iterator[PlacementDevice]:
    """Yield an agentless host's devices with their workers; one that uses the machine's main memory counts as a CPU."""
    holders = {device: process.process for process in facts.processes for device in process.devices}
    for gpu in facts.gpus:
        name = device_name(gpu)
        if name in holders:
            speed, window = (CPU_SPEED, CPU_WINDOW) if gpu.shared else (_speed(gpu), GPU_WINDOW)
            yield PlacementDevice(facts.node, name, gpu.free, speed, window, holders[name])


def _speed(gpu: GpuFacts) -> float:
    estimate = SHARED_SPEED if gpu.shared else GPU_SPEEDS.get(gpu.backend, 100e9)
    return gpu.bandwidth * GPU_SHARE or estimate


def _given(node: str, gpus: Iterable[GpuFacts]) -> Iterator[PlacementDevice]:
    for gpu in gpus:
        yield PlacementDevice(node, device_name(gpu), gpu.free, _speed(gpu), GPU_WINDOW)


def unusable(facts: NodeFacts, pool: PoolConfig, at_home: NodeFacts | None) -> str:
    """Return why another machine may not hold layers; empty when it may."""
    beside = at_home is not None and at_home.machine == facts.machine
    if not beside and not facts.lends:
        return (
            "its workers and stages listen for itself alone. Set pool.host there to its address in the LAN, or to "
            "0.0.0.0; the way there is encrypted unless pool.trusted_lan says otherwise"
        )
    if pool.engine == "ring":
        return ""
    ours, theirs = rpc_version(at_home) if at_home else "", rpc_version(facts)
    if ours and theirs and not _can_talk(ours, theirs) and not pool.skip_version_check:
        return f"its engine speaks RPC {theirs}, the one at home {ours}; update twd on both to the same version"
    return ""


def rpc_version(facts: NodeFacts) -> str:
    """Return the RPC protocol version of a machine's own engine; empty where it is unknown."""
    return next((build.rpc for build in facts.builds if build.name == "engine"), "")


def _can_talk(client: str, worker: str) -> bool:
    """Whether client and worker versions are compatible by llama.cpp's rule; an invalid version is not."""
    ours, theirs = (re.fullmatch(r"(\d{1,4})\.(\d{1,4})\.\d{1,4}", version) for version in (client, worker))
    return bool(ours and theirs and ours[1] == theirs[1] and int(theirs[2]) <= int(ours[2]))
