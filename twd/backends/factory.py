"""Creates the services that use other programs' servers, from the settings."""

import asyncio
from collections.abc import Awaitable, Callable

from twd.backends.clients.base import Backend
from twd.backends.clients.detection import open_backend, server_of
from twd.backends.drafter.service import RemoteDrafter
from twd.backends.relay.service import RelayService
from twd.backends.verifier.model import VerifyingModel, open_verifying
from twd.kit.progress import Progress
from twd.kit.service import ServiceContext
from twd.settings.model import DrafterConfig, ServerConfig, Settings
from twd.wire.base import ModelId


def relay_of(ctx: ServiceContext, settings: Settings, name: str) -> RelayService:
    """The relay of one configured backend."""
    speculation = settings.speculation
    return RelayService(
        ctx,
        ModelId(name),
        _opener(settings.backends[name], settings),
        failures=speculation.breaker_failures,
        cooldown_s=speculation.cooldown_s,
    )


def text_drafter_of(ctx: ServiceContext, settings: Settings, drafter: DrafterConfig) -> RemoteDrafter:
    """The drafter behind one configured server."""
    server, speculation = server_of(drafter), settings.speculation
    return RemoteDrafter(
        ctx,
        ModelId(drafter.name or drafter.model_name or server.url.split("://", 1)[-1]),
        _opener(server, settings),
        for_model=drafter.for_model,
        fallback=drafter.fallback,
        failures=speculation.breaker_failures,
        cooldown_s=speculation.cooldown_s,
    )


def verifying_loader(settings: Settings, name: str) -> Callable[[Progress], VerifyingModel]:
    """Returns a function that connects a backend that verifies drafts; that function blocks."""
    allowed = settings.edge.allow_private_upstream
    return lambda progress: open_verifying(
        settings.backends[name], ModelId(name), allow_private=allowed, progress=progress
    )


def checks_guesses(server: ServerConfig, *, allow_private: bool = True) -> bool:
    """Whether a server can be a target that verifies drafts. Asks the server and blocks; raises if it
    does not answer.
    """
    return asyncio.run(_checks(server, allow_private))


async def _checks(server: ServerConfig, allow_private: bool) -> bool:
    backend = await open_backend(server, allow_private=allow_private)
    try:
        return (await backend.probe()).can_verify
    finally:
        await backend.close()


def _opener(server: ServerConfig, settings: Settings) -> Callable[[], Awaitable[Backend]]:
    allowed = settings.edge.allow_private_upstream
    return lambda: open_backend(server, allow_private=allowed)
