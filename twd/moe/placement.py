"""Where dense weights and experts of a mixture should lie, and how quick a token would be. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from twd.moe.overlap import overlapped
from twd.moe.profile import ExpertProfile, held_share
from twd.moe.summary import LayerBytes, MixtureSummary

Strategy = Literal["balanced", "profile-guided"]
USABLE: Final = 0.92
"""Of free memory, so that the machine and the passes have some left."""


@dataclass(frozen=True, slots=True)
class DeviceScore:
    """One device. Speeds in bytes a second; `rtt_s` is the way there and back; `disk` only of this machine's memory."""

    name: str
    """What llama-server calls it, as in `CUDA0`; CPU is this machine's memory."""
    memory: int
    speed: float
    rtt_s: float = 0.0
    disk: float = 0.0

    @property
    def host(self) -> bool:
        """Whether it is this machine's own memory."""
        return self.name == "CPU"


@dataclass(frozen=True, slots=True)
class ExpertDeviceShare:
    """What one device would hold, and what it costs a token."""

    device: DeviceScore
    dense_layers: tuple[int, ...] = ()
    expert_layers: tuple[int, ...] = ()
    dense_bytes: int = 0
    expert_bytes: int = 0
    disk_bytes: int = 0
    """Of the experts, those that are read from disk when a token chooses them."""
    hits: float = 0.0
    """The share of all choices that this device serves from its memory."""
    ms: float = 0.0
    disk_ms: float = 0.0

    @property
    def token_ms(self) -> float:
        """What a token takes here."""
        return overlapped(self.ms, self.disk_ms)


@dataclass(frozen=True, slots=True)
class MixturePlan:
    """A whole placement. `missing` bytes of dense weights and caches fit nowhere."""

    strategy: str
    shares: tuple[ExpertDeviceShare, ...]
    outside: str
    """The device of the output matrix."""
    missing: int = 0
    more: tuple[tuple[int, float], ...] = field(default=())
    """So much memory of this machine in all, and the tokens a second that it would bring."""

    @property
    def token_ms(self) -> float:
        """Predicted time of one token."""
        return sum(share.token_ms for share in self.shares)

    @property
    def tok_s(self) -> float:
        """Predicted tokens a second, without drafts."""
        return 1000 / self.token_ms if self.token_ms and not self.missing else 0.0

    @property
    def disk_bytes(self) -> int:
        """Bytes of experts that have no place in memory."""
        return sum(share.disk_bytes for share in self.shares)


def place(
    model: MixtureSummary,
    devices: Sequence[DeviceScore],
    strategy: Strategy = "balanced",
    profile: ExpertProfile | None = None,
    kv_bytes: int = 0,
) -> MixturePlan:
    """Dense weights and caches on the quickest device that has room, then experts, layer by layer, while they fit.

    `devices` stand in the order in which llama.cpp lists them; one of them is this machine's memory. What fits nowhere
    else goes there, and experts that do not fit there either are read from disk. Each layer's experts then move once
    more wherever that makes a token quicker.
    """
    seen = profile if strategy == "profile-guided" else None
    dense = _place_dense(model, devices, kv_bytes)
    if dense is None:
        free = sum(_room(device) for device in devices)
        return MixturePlan(strategy, (), "", missing=max(model.resident + kv_bytes - free, 1))
    empty = _State(model, tuple(devices), dense, {}, kv_bytes, seen)
    state = replace(empty, experts=_place_experts(empty))
    best = _improved(state)
    return replace(_plan(best, strategy), more=_with_more(best, strategy))


@dataclass(frozen=True, slots=True)
class _State:
    """Devices by layer, for dense weights and for experts; layer -1 is what lies outside of layers."""

    model: MixtureSummary
    devices: tuple[DeviceScore, ...]
    dense: Mapping[int, DeviceScore]
    experts: Mapping[int, DeviceScore]
    kv_bytes: int
    profile: ExpertProfile | None


def _worth(device: DeviceScore) -> float:
    """How quickly a layer of 8 MiB is computed there, the way included."""
    return 1 / ((8 << 20) / max(device.speed, 1.0) + device.rtt_s)


def _room(device: DeviceScore) -> int:
    return int(device.memory * USABLE)


def _place_dense(model: MixtureSummary, devices: Sequence[DeviceScore], kv_bytes: int) -> dict[int, DeviceScore] | None:
    """Dense weights on as few devices as have room, the quickest first; as the last resort, some stay with the host."""
    host = next(device for device in devices if device.host)
    cards = sorted((device for device in devices if not device.host), key=lambda one: -_worth(one))
    cards = [device for device in cards if _worth(device) > _worth(host)]
    for count in range(1, len(cards) + 1):
        chosen = [device for device in devices if device in cards[:count]]
        if (places := _filled(model, chosen, kv_bytes)) is not None:
            return places
    return _filled(model, [host, *(device for device in devices if device in cards)], kv_bytes)


def _filled(model: MixtureSummary, devices: Sequence[DeviceScore], kv_bytes: int) -> dict[int, DeviceScore] | None:
    """As llama.cpp splits: layers in a row, the output matrix with the last, and the first ones on the first device."""
    queue = list(reversed(devices))
    rooms = {device.name: _room(device) for device in queue}
    for device in queue[1:]:
        rooms[device.name] -= model.embedding if device.host else 0
    sizes = {layer.layer: _dense_size(model, layer, kv_bytes) for layer in model.layers}
    places: dict[int, DeviceScore] = {}
    for number, size in [(-1, _with_output(model, queue[0])), *sorted(sizes.items(), reverse=True)]:
        while queue and rooms[queue[0].name] < size:
            queue.pop(0)
        if not queue:
            return None
        places[number] = queue[0]
        rooms[queue[0].name] -= size
    return places


def _dense_size(model: MixtureSummary, layer: LayerBytes, kv_bytes: int) -> int:
    return layer.dense + layer.shared + kv_bytes // max(len(model.layers), 1)


def _with_output(model: MixtureSummary, device: DeviceScore) -> int:
    """What lies outside of layers on the device of the output matrix: elsewhere the embedding is only looked up."""
    return model.outside if device.host else model.outside - model.looked_up


def _outside(state: _State, device: DeviceScore) -> int:
    """The embedding stays in this machine's memory; a card with the output matrix has a copy where it is the same."""
    if state.dense[-1] is device:
        return _with_output(state.model, device)
    return state.model.embedding if device.host else 0


def _rooms_left(state: _State) -> dict[str, int]:
    rooms = {device.name: _room(device) for device in state.devices}
    for layer in state.model.layers:
        rooms[state.dense[layer.layer].name] -= _dense_size(state.model, layer, state.kv_bytes)
    for device in state.devices:
        rooms[device.name] -= _outside(state, device)
    for layer in state.model.expert_layers:
        if layer.layer in state.experts:
            rooms[state.experts[layer.layer].name] -= layer.expert
    return rooms


def _place_experts(state: _State) -> dict[int, DeviceScore]:
    """Layers with many bytes and many hits first: to the device of their dense weights, else to the quickest."""
    rooms, profile = _rooms_left(state), state.profile
    host = next(device for device in state.devices if device.host)
    cards = sorted((device for device in state.devices if not device.host), key=lambda one: -_worth(one))
    total = profile.choices if profile else 0.0

    def weight(layer: LayerBytes) -> float:
        hits = sum(profile.hits.get(layer.layer, {}).values()) / total if profile and total else 0.0
        return layer.expert * (1 + 3 * hits)

    places: dict[int, DeviceScore] = {}
    for layer in sorted(state.model.expert_layers, key=lambda one: (-weight(one), one.layer)):
        home = state.dense[layer.layer]
        candidates = (one for one in (home, *cards) if not one.host and rooms[one.name] >= layer.expert)
        places[layer.layer] = found = next(candidates, host)
        rooms[found.name] -= layer.expert
    return places


def _improved(state: _State) -> _State:
    """Move the experts of one layer at a time to where a token gets quicker, until none does."""
    best, time = state, _token_ms(state)
    for layer in state.model.expert_layers:
        for device in state.devices:
            if device is best.experts[layer.layer]:
                continue
            tried = replace(best, experts={**best.experts, layer.layer: device})
            if not device.host and _rooms_left(tried)[device.name] < 0:
                continue
            if (ms := _token_ms(tried)) < time:
                best, time = tried, ms
    return best


def _token_ms(state: _State) -> float:
    return sum(share.token_ms for share in _shares(state))


def _shares(state: _State) -> list[ExpertDeviceShare]:
    rooms = _rooms_left(state)
    return [_share(state, device, rooms[device.name]) for device in state.devices]


def _share(state: _State, device: DeviceScore, room: int) -> ExpertDeviceShare:
    model = state.model
    dense = [one for one in model.layers if state.dense[one.layer] is device]
    experts = [one for one in model.expert_layers if state.experts[one.layer] is device]
    outside = _outside(state, device)
    output = model.outside - model.looked_up if state.dense[-1] is device else 0
    dense_bytes = sum(_dense_size(model, one, state.kv_bytes) for one in dense) + outside
    expert_bytes = sum(one.expert for one in experts)
    on_disk = min(max(-room, 0), expert_bytes) if device.host else 0
    held = _held_share(state, experts, expert_bytes - on_disk, expert_bytes)
    read = sum(one.expert for one in experts) * model.used / model.experts
    weights = sum(one.dense + one.shared for one in dense) + output
    seconds = (weights + read) / max(device.speed, 1.0) + _way(state, device)
    return ExpertDeviceShare(
        device=device,
        dense_layers=tuple(one.layer for one in dense),
        expert_layers=tuple(one.layer for one in experts),
        dense_bytes=dense_bytes,
        expert_bytes=expert_bytes,
        disk_bytes=on_disk,
        hits=held * expert_bytes / max(model.expert, 1),
        ms=seconds * 1000,
        disk_ms=(1 - held) * read / device.disk * 1000 if device.disk else 0.0,
    )


def _way(state: _State, device: DeviceScore) -> float:
    """Seconds that states are under way to this device and back."""
    if device.host:
        return 0.0
    alone = sum(1 for layer, place in state.experts.items() if place is device and state.dense[layer] is not device)
    away = sum(1 for layer, place in state.experts.items() if place is not device and state.dense[layer] is device)
    through = 1 if any(place is device for place in state.dense.values()) else 0
    return device.rtt_s * (alone + away + through)


def _held_share(state: _State, experts: Sequence[LayerBytes], room: int, size: int) -> float:
    """The share of choices in these layers that `room` bytes serve."""
    if not size or room >= size:
        return 1.0
    profile = state.profile
    if profile is None:
        return max(room, 0) / size
    numbers = {one.layer for one in experts}
    here = ExpertProfile(
        hits={layer: counts for layer, counts in profile.hits.items() if layer in numbers},
        trace=[one for one in profile.trace if one[0] in numbers],
    )
    slots = state.model.experts * len(experts)
    return held_share(here, int(slots * max(room, 0) / size))


def _plan(state: _State, strategy: str) -> MixturePlan:
    shares = tuple(share for share in _shares(state) if share.dense_bytes or share.expert_bytes)
    return MixturePlan(strategy, shares, state.dense[-1].name)


def _with_more(state: _State, strategy: str) -> tuple[tuple[int, float], ...]:
    """What more memory of this machine would bring, up to where nothing is read from disk."""
    lacking = _plan(state, strategy).disk_bytes
    if not lacking:
        return ()
    host = next(device for device in state.devices if device.host)
    return tuple(_speed_with(state, strategy, host, int(lacking / USABLE * part)) for part in (0.25, 0.5, 1.0))


def _speed_with(state: _State, strategy: str, host: DeviceScore, extra: int) -> tuple[int, float]:
    larger = replace(host, memory=host.memory + extra + 1)

    def moved(places: Mapping[int, DeviceScore]) -> dict[int, DeviceScore]:
        return {layer: larger if place is host else place for layer, place in places.items()}

    devices = tuple(larger if device is host else device for device in state.devices)
    changed = replace(state, devices=devices, dense=moved(state.dense), experts=moved(state.experts))
    return larger.memory, _plan(changed, strategy).tok_s


def layer_ranges(layers: Iterable[int]) -> str:
    """Numbers as people write them: 0-3, 7."""
    found: list[list[int]] = []
    for number in sorted(layers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found) or "none"
