"""`twd pull` by a swarm service, here or on another machine: of many that want a file, one reads it from the hub."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.wire.failures import TwdError

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus
    from twd.models.environment import HubEnvironment
    from twd.wire.base import Event
    from twd.wire.swarm import HubFacts, PullWanted


class PullWish(NamedTuple):
    """What the command line says. `folder` is empty for the folder of models of the machine."""

    spec: str
    revision: str
    folder: str
    node: str


def pull_there(ctx: CliContext, wish: PullWish, environment: "HubEnvironment", as_json: bool) -> ExitCode | None:
    """Ask a service; None where the command should do it itself, as none runs here or it asks hubs in another way."""
    if not wish.node and not ctx.settings.bus.url and ctx.instance() is None:
        return None
    return asyncio.run(_pull_there(ctx, wish, environment, as_json))


async def _pull_there(ctx: CliContext, wish: PullWish, environment: "HubEnvironment", as_json: bool) -> ExitCode | None:
    from twd.cli.swarm.ask import ask_service, follow_pulls, hear_pulls

    heard: asyncio.Queue[Event] = asyncio.Queue(1024)
    async with AsyncExitStack() as stack:
        try:
            bus = await stack.enter_async_context(ctx.bus("admin"))
            alike = bool(wish.node) or _asks_alike(await _facts_here(ctx, bus), environment)
        except TwdError:  # no bus, or one where this machine may not ask
            if wish.node:
                raise
            return None
        if not alike:
            return None
        await hear_pulls(bus, heard)
        answer = await ask_service(bus, _wanted(ctx, wish))
        if answer.failure is not None:
            raise CommandError(exit_code_of(answer.failure.code), answer.failure.message)
        if answer.done:
            click.echo(f"{answer.path} is here already", err=True)
        else:
            await follow_pulls(heard, answer, None, as_json)
        if not as_json:
            click.echo(answer.path if not wish.node else f"{answer.node}: {answer.path}")
        return ExitCode.OK


def _wanted(ctx: CliContext, wish: PullWish) -> "PullWanted":
    from twd.swarm.local_key import proof_here
    from twd.wire.base import NodeId
    from twd.wire.swarm import PullWanted

    node = NodeId(wish.node) if wish.node else ctx.here
    dest = wish.folder if wish.node else str(Path(wish.folder).absolute()) if wish.folder else ""
    proof = "" if wish.node and wish.node != ctx.here else proof_here(ctx.settings.home_dir, "", wish.spec, dest)
    return PullWanted(node=node, spec=wish.spec, revision=wish.revision, dest=dest, proof=proof)


async def _facts_here(ctx: CliContext, bus: "NatsBus") -> "HubFacts | None":
    """What the service of this machine tells of hubs; None if there is none."""
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.swarm.machines import machines_of

    leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    machines = machines_of(await leases.entries(), "")
    return next((machine.hub for machine in machines if machine.node == ctx.here), None)


def _asks_alike(facts: "HubFacts | None", environment: "HubEnvironment") -> bool:
    """Whether the service would ask the same hub, with a token if this command has one."""
    if facts is None or environment.offline:
        return False
    return facts.endpoint == environment.endpoint and (facts.token or not environment.token)
