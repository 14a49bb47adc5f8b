"""The root command: global options, lazily loaded subcommands, and the one place where errors become lines."""

import errno
import gc
import importlib
import os
import sys
import traceback
from typing import Any, Final

import click

import twd
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.kit.terminal import let_go_of_stdout
from twd.process import platform
from twd.wire.failures import FailureCode, TwdError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("twd.cli.init.command:init", "Look round, and write a configuration."),
    "up": ("twd.cli.up:up", "Start what this machine needs, in one terminal."),
    "down": ("twd.cli.down:down", "End what `twd up` started here."),
    "start": ("twd.cli.models.command:start", "Serve one more model."),
    "stop": ("twd.cli.models.command:stop", "Serve a model no longer."),
    "swap": ("twd.cli.models.command:swap", "Serve one model in place of another."),
    "load": ("twd.cli.models.memory:load", "Serve a model, and show what it does to memory."),
    "reclaim": ("twd.cli.models.memory:reclaim", "Give back memory that models do not need."),
    "tune": ("twd.cli.tune.command:tune", "Settings that fit this machine and a model."),
    "status": ("twd.cli.status:status", "Services, nodes, models and their health."),
    "top": ("twd.cli.top:top", "Models on several machines, as they work."),
    "watch": ("twd.cli.watch:watch", "Live events, one line each."),
    "trace": ("twd.cli.trace:trace", "The story of one job, in order, with durations."),
    "logs": ("twd.cli.logs:logs", "What the processes wrote."),
    "guide": ("twd.cli.guide.command:guide_command", "From this machine to an endpoint: what to type."),
    "engine": ("twd.cli.engine.command:engine", "Which build of llama.cpp is here; another one."),
    "upgrade": ("twd.cli.upgrade.command:upgrade", "A newer version takes over; it goes back by itself."),
    "rollback": ("twd.cli.upgrade.command:rollback", "The version before takes over again."),
    "service": ("twd.cli.service.command:service", "twd as a service of the system: install, status."),
    "run": ("twd.cli.run:run_command", "One service alone, in this process."),
    "doctor": ("twd.cli.doctor.command:doctor", "Look at everything, and say what mends what is wrong."),
    "plan": ("twd.cli.plan.command:plan", "Which layers of a model would go where."),
    "pull": ("twd.cli.hub.pull:pull", "A model from a hub: Hugging Face, Ollama's registry, or a URL."),
    "inspect": ("twd.cli.hub.inspecting:inspect_command", "What a model is: a file here, or one on a hub."),
    "manifest": (
        "twd.cli.swarm.manifest:manifest",
        "The hashes by which a model is shared and checked.",
    ),
    "swarm": ("twd.cli.swarm.command:swarm", "Models from machine to machine: seed, pull, status."),
    "distribute": ("twd.cli.distribute.command:distribute", "A model's file to all machines."),
    "gate": ("twd.cli.gate.command:gate", "The quality gate: start it, look at it, calibrate it."),
    "slice": ("twd.cli.slice:slice_command", "Cut layers out of a model, for a stage of a ring."),
    "moe": ("twd.cli.moe.command:moe", "Mixtures of experts: look, convert, profile, plan."),
    "config": ("twd.cli.config:config", "Show the settings, or check them."),
    "token": ("twd.cli.members.token:token", "Join tokens: what lets another machine in."),
    "join": ("twd.cli.members.join:join", "Join the installation of another machine, with a token."),
    "leave": ("twd.cli.members.join:leave", "Leave the installation that this machine joined."),
    "deploy": ("twd.cli.deploy.command:deploy", "Put twd on other machines, by ssh."),
    "node": ("twd.cli.members.node:node", "Machines that joined: list them, remove one."),
    "key": ("twd.cli.key:key", "Who may enter: make, list and revoke keys."),
    "chat": ("twd.cli.chat.command:chat", "Talk to a model, and see what drafts did."),
    "bench": ("twd.cli.bench.command:bench", "What drafts bring, measured; or played for given numbers."),
    "benchmark": ("twd.cli.bench.command:bench", "The same as bench."),
    "proxy": ("twd.cli.old_names:proxy", "The older name of up, down and status."),
    "peer": ("twd.cli.old_names:peer", "The older name of `up agent`, down and status."),
    "schemas": ("twd.cli.schemas:schemas", "Write or check bus_schemas/."),
    "completion": ("twd.cli.completion:completion", "Shell completion."),
    "help": ("twd.cli.help:help_command", "Exit codes and other reference."),
}
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
SAY_IT_THEMSELVES: Final = (FailureCode.BAD_REQUEST, FailureCode.MODEL_NOT_FOUND, FailureCode.MODEL_LOAD)
"""Failures whose messages name what to do at a command line; their advice is for clients of the API."""

NOT_FOR_THE_BUS: Final = (FailureCode.UNAUTHENTICATED, FailureCode.FORBIDDEN, FailureCode.BUS_DOWN)


class LazyGroup(click.Group):
    """Imports a subcommand only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one that is asked for."""
        if cmd_name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {cmd_name!r}.{hint}", ctx)
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        if cmd_name != "run":  # a service has its own to import yet
            gc.enable()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Where the reader of our output goes away, as `head` does, nothing failed; click would say 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            let_go_of_stdout()
            return ExitCode.OK

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", metavar="FILE", help="The configuration to read.")
@click.version_option(twd.__version__, prog_name="twd")
@click.pass_context
def app(ctx: click.Context, config: str | None) -> None:
    """One OpenAI-compatible endpoint out of unlike machines."""
    from twd.cli.common.context import CliContext

    ctx.obj = CliContext(config, own_process=bool(ctx.obj))


def run(arguments: list[str], own_process: bool = False) -> int:
    """Run one command line; whatever goes wrong becomes a line on stderr and an exit code.

    `own_process`: the process is there for this alone, and may fork a guard.
    """
    platform.hold_on_to_parent()
    _fill_streams()
    try:
        return int(app.main(arguments, prog_name="twd", standalone_mode=False, obj=own_process) or ExitCode.OK)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except CommandError as error:
        _tell(str(error))
        return error.exit_code
    except TwdError as error:
        _tell(str(error), _advice(error))
        return exit_code_of(error.code)
    except OSError as error:
        return _refused_by_system(error)
    except Exception as error:  # noqa: BLE001 - the edge: the user gets a line, not a traceback
        return _fault(error)


def _refused_by_system(error: OSError) -> ExitCode:
    """What the system did not allow, where that is no fault of this program."""
    if error.errno in DISK_FULL:
        _tell(f"the disk is full: {error}", "Make room there, or set TWD_HOME to a folder on another disk.")
    elif error.errno == errno.EROFS:
        _tell(f"nothing can be written there: {error}", "TWD_HOME names another folder.")
    elif isinstance(error, PermissionError):
        mend = "`twd doctor` looks at who owns what; TWD_HOME names another folder."
        _tell(f"this user may not do that: {error}", mend)
    else:
        return _fault(error)
    return ExitCode.CANNOT_START


def _advice(error: TwdError) -> str:
    """What to do, where the message does not say it: an advice is for clients of the API, and the bus is none."""
    from twd.bus.base import BusError

    says_it = error.code in SAY_IT_THEMSELVES or (isinstance(error, BusError) and error.code in NOT_FOR_THE_BUS)
    return "" if says_it else error.failure.advice


def _fill_streams() -> None:
    """A stream that was closed before this process began, as by `<&-`, leads nowhere; nothing else takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - to the end


def _fault(error: Exception) -> ExitCode:
    _tell(f"a fault in twd: {type(error).__name__}: {error}", "TWD_DEBUG=1 shows where; please report it.")
    return ExitCode.FAULT


def _tell(problem: str, advice: str = "") -> None:
    if os.environ.get("TWD_DEBUG"):
        traceback.print_exc()
    click.secho(f"twd: {problem}", fg="red", err=True, color=False if "NO_COLOR" in os.environ else None)
    if advice:
        click.echo(f"     {advice}", err=True)
