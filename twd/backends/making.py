"""Services over other people's servers, from the settings."""

import asyncio
from collections.abc import Awaitable, Callable

from twd.backends.base import Backend
from twd.backends.finding import open_backend, server_of
from twd.backends.relay import Relay
from twd.backends.text_drafter import TextDrafter
from twd.backends.verifying_model import VerifyingModel, open_verifying
from twd.kit.progress import Progress
from twd.kit.service import Surroundings
from twd.kit.settings import Drafter, Server, Settings
from twd.wire.base import ModelId


def relay_of(ground: Surroundings, settings: Settings, name: str) -> Relay:
    """The relay of one configured backend."""
    speculation = settings.speculation
    return Relay(
        ground,
        ModelId(name),
        _opener(settings.backends[name], settings),
        failures=speculation.breaker_failures,
        cooldown_s=speculation.cooldown_s,
    )


def text_drafter_of(ground: Surroundings, settings: Settings, drafter: Drafter) -> TextDrafter:
    """The drafter behind one configured server."""
    server, speculation = server_of(drafter), settings.speculation
    return TextDrafter(
        ground,
        ModelId(drafter.name or drafter.model_name or server.url.split("://", 1)[-1]),
        _opener(server, settings),
        for_model=drafter.for_model,
        fallback=drafter.fallback,
        failures=speculation.breaker_failures,
        cooldown_s=speculation.cooldown_s,
    )


def verifying_loader(settings: Settings, name: str) -> Callable[[Progress], VerifyingModel]:
    """What connects a backend that checks guesses; it blocks."""
    allowed = settings.edge.allow_private_upstream
    return lambda progress: open_verifying(
        settings.backends[name], ModelId(name), allow_private=allowed, progress=progress
    )


def checks_guesses(server: Server, *, allow_private: bool = True) -> bool:
    """Whether a server can be a target whose guesses are checked. Asks it, and blocks; raises while it is away."""
    return asyncio.run(_checks(server, allow_private))


async def _checks(server: Server, allow_private: bool) -> bool:
    backend = await open_backend(server, allow_private=allow_private)
    try:
        return (await backend.probe()).can_verify
    finally:
        await backend.close()


def _opener(server: Server, settings: Settings) -> Callable[[], Awaitable[Backend]]:
    allowed = settings.edge.allow_private_upstream
    return lambda: open_backend(server, allow_private=allowed)
