"""What would help a model that does not fit; each advice is tried, not guessed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from twd.coordinator.core.placement.search import place
from twd.coordinator.core.placement.values import (
    MIB,
    MachineLink,
    ModelShape,
    Placement,
    PlacementDemand,
    PlacementDevice,
)
from twd.engine.host_memory.limits import gib

CTX_STEP: Final = 256


def place_or_advise(
    shape: ModelShape, devices: Sequence[PlacementDevice], links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Return a placement; if none fits, it tells what is missing and what would help."""
    placement = place(shape, devices, links, demand)
    if placement.fits:
        return placement
    return replace(placement, helps=tuple(_helps(shape, devices, links, demand, placement.missing_bytes)))


def _helps(
    shape: ModelShape,
    devices: Sequence[PlacementDevice],
    links: Mapping[str, MachineLink],
    demand: PlacementDemand,
    missing: int,
) -> Iterator[str]:
    def fits(changed: PlacementDemand, with_shape: ModelShape = shape) -> bool:
        return place(with_shape, devices, links, changed).fits

    if demand.split and fits(replace(demand, split=())):
        yield "leave pool.split at auto: the shares asked for do not fit where they should go"
    if demand.sessions > 1 and fits(replace(demand, sessions=1)):
        yield f"set parallel to {_largest(1, demand.sessions, lambda n: fits(replace(demand, sessions=n)))}"
    steps = demand.ctx // CTX_STEP
    if steps > 1 and fits(replace(demand, ctx=CTX_STEP)):
        most = _largest(1, steps, lambda n: fits(replace(demand, ctx=n * CTX_STEP)))
        yield f"set ctx_size to {most * CTX_STEP}"
    half = replace(shape, kv_layer=shape.kv_layer * 17 // 32)
    if fits(demand, half):
        yield "set cache_type_k and cache_type_v to q8_0, if they are f16: the cache takes half the memory then"
    yield f"add a machine or device with {gib(missing + missing // 10 + 512 * MIB)} free, or a smaller quantization"


def _largest(low: int, high: int, works: Callable[[int], bool]) -> int:
    """Return the largest number that works, by bisection; `low` must work, and a larger number never works better."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle) else (low, middle - 1)
    return low
