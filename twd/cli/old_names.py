"""`twd proxy` and `twd peer`: commands of an older program, which do what they did and name what is typed now."""

from typing import Any

import click

from twd.cli.common.context import CliContext
from twd.cli.down import down
from twd.cli.status import status
from twd.cli.up import up
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.process.home import RunningInstance

AGENT = "agent"
_OF_THE_AGENT = {AGENT, "broker"}


@click.group()
def proxy() -> None:
    """The older name of `twd up`, `twd down` and `twd status`."""


@click.group()
def peer() -> None:
    """The older name of `twd up agent`, `twd down` and `twd status`."""


@proxy.command("start")
@click.pass_context
def start_proxy(ctx: click.Context) -> Any:
    """Start what this machine needs, in this terminal."""
    return _now(ctx, "twd up", up)


@proxy.command("stop")
@click.pass_context
def stop_proxy(ctx: click.Context) -> Any:
    """End it."""
    return _now(ctx, "twd down", down)


@proxy.command("status")
@click.pass_context
def proxy_status(ctx: click.Context) -> Any:
    """What runs, and how it is."""
    return _now(ctx, "twd status", status)


@peer.command("start")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the agent's API, instead of agent.port.")
@click.pass_context
def start_peer(ctx: click.Context, port: int | None) -> Any:
    """Start the agent of this machine, in this terminal."""
    if port:
        ctx.obj.environment["TWD_AGENT_PORT"] = str(port)
    new = f"TWD_AGENT_PORT={port} twd up agent" if port else "twd up agent"
    return _now(ctx, new, up, services=(AGENT,))


@peer.command("stop")
@click.pass_context
def stop_peer(ctx: click.Context) -> Any:
    """End the agent, where it runs alone."""
    command_context: CliContext = ctx.obj
    instance = command_context.instance()
    if instance is not None and (others := _besides_the_agent(instance)):
        text = f"more than the agent runs here: {', '.join(others)}. `twd down` ends all of it"
        raise CommandError(ExitCode.USAGE, text)
    return _now(ctx, "twd down", down)


@peer.command("status")
@click.pass_context
def peer_status(ctx: click.Context) -> Any:
    """What runs, and how it is."""
    return _now(ctx, "twd status", status)


def _besides_the_agent(instance: RunningInstance) -> list[str]:
    return sorted(instance.processes.keys() - _OF_THE_AGENT)


def _now(ctx: click.Context, new: str, command: click.Command, **given: Any) -> Any:
    """Run what the command is called now, and say so."""
    click.echo(f"hint: `{ctx.command_path}` is now `{new}`", err=True)
    return ctx.invoke(command, **given)
