"""`twd run SERVICE`: one service in this process, as compose and the supervisor run it."""

import asyncio
from typing import Any

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.kit import logs
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import node_id
from twd.process import platform
from twd.process.fork_server import OURS
from twd.supervisor.service_catalog import SERVICES, ServiceChoice, made_by
from twd.supervisor.simulated_machines import as_node
from twd.supervisor.stage_options import StageChoice, stage_options


@click.command("run")
@click.argument("service", metavar="SERVICE", type=click.Choice(list(SERVICES)))
@click.option("--model", default="", help="The model: its name in the settings, or a GGUF file.")
@click.option("--number", default=0, help="Which drafter of the settings, or which replica of the model it is, from 0.")
@click.option("--for-model", default="", help="Drafter: the model that it drafts for; without: every model.")
@click.option("--ram-reclaim", type=click.Choice(["off", "on", "auto"]), help="Instead of what the settings say.")
@click.option("--no-prewarm", is_flag=True, help="Do not read a model's file ahead.")
@click.option("--node", default="", hidden=True, help="Play a machine of this name.")
@click.option("--bare", is_flag=True, hidden=True, help="That machine has no models.")
@click.option("--link-rtt", default=0.0, hidden=True, help="Milliseconds to and from that machine.")
@stage_options
@click.pass_obj
def run_command(
    ctx: CliContext,
    /,
    service: str,
    model: str,
    number: int,
    for_model: str,
    ram_reclaim: str | None,
    no_prewarm: bool,
    node: str,
    bare: bool,
    link_rtt: float,
    **stage: Any,
) -> ExitCode:
    """Run one service alone, until a signal ends it."""
    from twd.cli.fork_server import fork_off

    forks = fork_off() if service == "agent" else None
    settings = as_node(ctx.with_bus(), node, bare=bare) if node else ctx.with_bus()
    here = node_id(node) if node else ctx.node
    memory = {"ram_reclaim": ram_reclaim or settings.ram_reclaim, "prewarm": settings.prewarm and not no_prewarm}
    settings = msgspec.structs.replace(settings, **memory)
    about = {"service": service, **({"model": model} if model else {})}
    logs.set_up(settings.log, secrets=logs.secrets_of(settings), about=about)
    from twd.kit.connect import connect
    from twd.process.run_service import run_service

    choice = ServiceChoice(model, number, link_rtt, StageChoice(**stage), for_model, forks)
    made = made_by(service, settings, choice)
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(
            run_service(
                lambda context: made.make(context, settings, choice),
                lambda: connect(settings, made.role, here),
                here,
            )
        )


def twd_command(*arguments: str) -> tuple[str, ...]:
    """The command line of another process of this very program."""
    return (*OURS, *arguments)
