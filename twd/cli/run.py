"""`twd run SERVICE`: one service in this process, as compose and the supervisor run it."""

import asyncio
import sys

import click

from twd.cli.context import Ground
from twd.cli.services import SERVICES, Choice, factory_of
from twd.kit import logs, platform
from twd.kit.exit_codes import ExitCode


@click.command("run")
@click.argument("service", metavar="SERVICE", type=click.Choice(list(SERVICES)))
@click.option("--model", default="", help="The model: its name in the settings, or a GGUF file.")
@click.option("--number", default=0, help="Which drafter of the settings it is, from 0.")
@click.pass_obj
def run_command(ground: Ground, service: str, model: str, number: int) -> ExitCode:
    """Run one service alone, until a signal ends it."""
    settings = ground.with_bus()
    about = {"service": service, **({"model": model} if model else {})}
    logs.set_up(settings.log, secrets=logs.secrets_of(settings), about=about)
    from twd.kit.connect import connect
    from twd.kit.run_service import run_service

    make = factory_of(service)
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(
            run_service(
                lambda surroundings: make(surroundings, settings, Choice(model, number)),
                lambda: connect(settings, service, ground.node),
                ground.node,
            )
        )


def twd_command(*arguments: str) -> tuple[str, ...]:
    """The command line of another process of this very program."""
    return (sys.executable, "-P", "-m", "twd", *arguments)
