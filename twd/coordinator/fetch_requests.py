"""Asks swarm services for layers, and to stop; what becomes of it stands in their leases."""

import logging
from collections.abc import Awaitable, Callable

from twd.bus.base import BusError
from twd.coordinator.core.fetching import pull_name
from twd.wire.swarm import PullAnswered, PullUnwanted, PullWanted

Ask = Callable[[PullWanted | PullUnwanted], Awaitable[object]]


async def ask_for_layers(ask: Ask, wish: PullWanted | PullUnwanted, log: logging.Logger) -> None:
    """Ask one machine; a refusal is logged, and asked again later."""
    what = pull_name(wish.hash, wish.layers)
    try:
        answer = await ask(wish)
    except BusError as error:
        log.warning("%s: no answer about the layers %s: %s", wish.node, what, error)
        return
    if isinstance(answer, PullAnswered) and answer.failure is not None:
        log.warning("%s does not fetch %s: %s", wish.node, what, answer.failure.message)
