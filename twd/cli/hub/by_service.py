"""`twd pull` by a swarm service, here or on another machine: of many that want a file, one reads it from the hub."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from twd.cli.common.context import CliContext
from twd.cli.swarm.transfer_bar import TransferView
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.wire.failures import TwdError

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus
    from twd.models.environment import HubEnvironment
    from twd.wire.base import Event
    from twd.wire.swarm import HubFacts, PullAnswered, PullWanted

SILENCE_S: Final = 30.0


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
    from twd.cli.swarm.ask import ask_service, hear_pulls

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
            await _follow(heard, answer, as_json)
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


async def _follow(heard: "asyncio.Queue[Event]", answer: "PullAnswered", as_json: bool) -> None:
    """Show how far it is, until all files are there; raises for the first that fails."""
    from twd.swarm.puller import Progress
    from twd.wire.swarm import PullFailed, PullFinished, PullProgressed

    left = {answer.root, *answer.more}
    views: dict[str, TransferView] = {}
    while left:
        try:
            event = await asyncio.wait_for(heard.get(), SILENCE_S)
        except TimeoutError:
            text = f"the service on {answer.node} has said nothing for {SILENCE_S:g} s; see `twd status` and `twd logs`"
            raise CommandError(ExitCode.UNHEALTHY, text) from None
        root = str(getattr(event, "root", ""))
        if root not in left or getattr(event, "node", "") != answer.node:
            continue
        match event:
            case PullProgressed():
                now = Progress(event.done_bytes, event.total_bytes, event.bytes_s, event.sources, event.banned)
                views.setdefault(root, TransferView(event.file, as_json)).show(now)
            case PullFinished():
                left.discard(root)
                size = event.total_bytes
                view = views.setdefault(root, TransferView(event.file, as_json))
                view.end(
                    Progress(size, size, 0.0, 0, 0), "finished", path=event.path, fetched_bytes=event.fetched_bytes
                )
            case PullFailed():
                raise CommandError(exit_code_of(event.failure.code), event.failure.with_advice)
