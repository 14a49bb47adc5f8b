"""`twd node`: the machines that joined the installation here."""

import asyncio
import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from twd.bus.base import BusError
from twd.cli.common.context import CliContext
from twd.cli.members.changing import change
from twd.cli.members.own_broker import own_store, running_broker
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.wire.failures import FailureCode, TwdError

if TYPE_CHECKING:
    from twd.membership.core import JoinedMachine

_as_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.group()
def node() -> None:
    """Machines that joined by `twd join`."""


@node.command("list")
@_as_json
@click.pass_obj
def list_nodes(ctx: CliContext, as_json: bool) -> ExitCode:
    """All machines that joined, and what runs on each."""
    machines = own_store(ctx).load().machines
    running = asyncio.run(_running(ctx)) if running_broker(ctx) is not None else {}
    rows = [_row(one, running.get(one.node, [])) for one in machines]
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo("no machine joined; `twd token add` prints what lets one in")
    else:
        _print(rows)
    return ExitCode.OK


@node.command()
@click.argument("name")
@_as_json
@click.pass_obj
def remove(ctx: CliContext, name: str, as_json: bool) -> ExitCode:
    """Remove a machine: it is told, the broker lets it in no longer, and what runs there ends."""
    from twd.membership.core import without_machine

    store = own_store(ctx)
    decide = partial(without_machine, node=name)
    try:
        decide(store.load())
        if running_broker(ctx) is not None:
            asyncio.run(_tell(ctx, name))
        change(ctx, store, decide)
    except TwdError as error:
        if error.code is not FailureCode.BAD_REQUEST:
            raise
        raise CommandError(ExitCode.NOT_FOUND, str(error)) from None
    if running_broker(ctx) is not None:
        asyncio.run(_clear(ctx, name))
    click.echo(json.dumps({"node": name, "removed": True}) if as_json else f"{name} is removed")
    return ExitCode.OK


async def _running(ctx: CliContext) -> dict[str, list[str]]:
    """Return the services on each machine, by their leases; none where the broker does not answer."""
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.wire.service import read_lease

    try:
        async with ctx.bus("status") as bus:
            entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    except BusError as error:
        click.echo(f"what runs is not known: {error}", err=True)
        return {}
    found: dict[str, list[str]] = {}
    for entry in entries:
        if lease := read_lease(entry.value, entry.key):
            found.setdefault(lease.node, []).append(lease.service)
    return {machine: sorted(services) for machine, services in found.items()}


async def _tell(ctx: CliContext, name: str) -> None:
    """Tell everybody that a machine is removed, itself included."""
    import msgspec

    from twd.kit.ids import Ids
    from twd.wire.base import NodeId
    from twd.wire.codec import encode
    from twd.wire.node import MachineRemoved
    from twd.wire.routes import subject_of

    ids = Ids()
    event = MachineRemoved(node=NodeId(name), id=ids.event())
    async with ctx.bus("admin") as bus:
        event = msgspec.structs.replace(event, source=ids.instance("admin", ctx.node))
        bus.publish(subject_of(event), encode(event))
        await bus.flush()


async def _clear(ctx: CliContext, name: str) -> None:
    """Delete the leases of a machine that can renew them no longer, so that nobody plans with it."""
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.wire.service import read_lease

    async with ctx.bus("admin") as bus:
        leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        for entry in await leases.entries():
            lease = read_lease(entry.value, entry.key)
            if lease is not None and lease.node == name:
                await leases.delete(entry.key)
        await bus.flush()


def _row(machine: "JoinedMachine", runs: list[str]) -> dict[str, Any]:
    return {
        "node": machine.node,
        "roles": machine.roles,
        "joined_ms": machine.joined_ms,
        "token": machine.token,
        "runs": runs,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    from twd.kit.terminal import show, table

    shown = table("machine", "may", "joined", "runs")
    for row in rows:
        joined = datetime.fromtimestamp(row["joined_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        shown.add_row(row["node"], ", ".join(row["roles"]), joined, escape(", ".join(row["runs"])) or "nothing now")
    show(shown)
