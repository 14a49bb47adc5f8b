"""`twd up`: everything that one machine needs, under one supervisor, in one terminal."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

import twd
from twd.cli.common.context import CliContext
from twd.cli.common.head_option import head_option, head_words
from twd.cli.common.numbers import SECONDS, NumberRange
from twd.cli.common.options_as import options_as
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.net.ports import bindable_port
from twd.process.fork_server import ForkServerHandle
from twd.process.hang import policy_of
from twd.process.home import AlreadyRunning, RunningInstance, StateFolder
from twd.process.notify import NotifySocket
from twd.process.process_table import Wait
from twd.process.supervisor import ProcessSpec
from twd.settings.model import Settings
from twd.supervisor.in_clear import ways_in_clear
from twd.supervisor.model_changes import skipping_version_check, with_head, with_served
from twd.supervisor.simulated_machines import SimulatedMachines
from twd.supervisor.start_display import StartSnapshot, StartView, choose_view
from twd.wire.failures import TwdError

if TYPE_CHECKING:
    from twd.bus.broker import EmbeddedBroker

READY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line asks for."""

    services: tuple[str, ...]
    demo: bool
    moe: bool
    memory: int
    models: tuple[str, ...]
    no_models: bool
    head: str
    rpc: int
    ring: int
    bare: int
    link_rtt: float
    skip_version_check: bool
    detach: bool
    as_json: bool
    wait: str
    timeout: float
    report: bool

    @property
    def served(self) -> tuple[str, ...] | None:
        """The models to serve; None: all that the settings say are served."""
        return self.models if self.models or self.no_models else None


@click.command()
@click.argument("services", metavar="[SERVICE]...", nargs=-1)
@click.option("--demo", is_flag=True, help="With a small real model, so that there is something to talk to.")
@click.option("--moe", is_flag=True, help="With --demo: a mixture of experts, larger than the memory it gets.")
@click.option(
    "--memory", default=0, metavar="MIB", help="With --moe: each machine's memory for weights. [default: 60 % of them]"
)
@click.option("-m", "--model", "models", multiple=True, help="Serve only this model of the settings; more than once.")
@click.option("--no-models", is_flag=True, help="Serve no model yet: `twd start` adds them.")
@head_option
@click.option("--rpc", default=0, help="The models over so many RPC workers here, as if on other machines.")
@click.option("--ring", default=0, help="The models over a ring of so many stages here.")
@click.option("--bare", default=0, help="With --ring: so many of them have no copy of a model, and fetch their layers.")
@click.option("--link-rtt", default=0.0, type=NumberRange(0.0, 60_000), help="Milliseconds to and from each of them.")
@click.option("--skip-version-check", is_flag=True, help="Use machines of the pool whose engine does not match.")
@click.option("-d", "--detach", is_flag=True, help="Return when all is ready; `twd down` ends it.")
@click.option("--json", "as_json", is_flag=True, help="Print addresses and processes as JSON when all is ready.")
@click.option(
    "--wait",
    type=click.Choice([wait.value for wait in Wait]),
    default=Wait.SOME.value,
    show_default=True,
    help="Ready is when all works that can, and what is missing is told (some), or when everything works (all); and "
    "when the drafters are measured, 5 s later at most.",
)
@click.option("--timeout", default=READY_S, show_default=True, type=SECONDS, help="Seconds until -d gives up.")
@click.option("--report", is_flag=True, hidden=True)
@click.pass_obj
@options_as(UpOptions)
def up(ctx: CliContext, asked: UpOptions) -> ExitCode:
    """Start broker and services, and keep them alive. The first Ctrl-C drains, the second kills."""
    played = SimulatedMachines.asked(asked.rpc, asked.ring, asked.link_rtt, asked.bare)
    demo = DemoAsked.of(asked.demo, asked.moe, asked.memory)
    ctx.home.prepare()
    if asked.head:
        _check_head(ctx, asked.demo)
        ctx.settings = with_head(ctx.settings, asked.head)
    if not asked.report:
        _say_first(ctx, asked.head)
    if asked.detach:
        return _detach(ctx, asked, demo, played)
    _put_under_guard(ctx, terminal=not asked.report)
    return _start(ctx, asked, demo, played)


def _check_head(ctx: CliContext, demo: bool) -> None:
    """Refuse a head that nobody would ask."""
    if demo:
        raise CommandError(ExitCode.USAGE, "--head is for a model of your own; the demo brings its drafter")
    if not ctx.settings.models:
        raise CommandError(ExitCode.USAGE, "--head guesses for a model, and the settings name none; `twd init` does")


def _say_first(ctx: CliContext, head: str) -> None:
    """What a person should know of these settings before they are used."""
    for word in head_words(ctx.settings) if head else ():
        click.echo(word, err=True)
    for hint in ctx.loaded.hints:
        click.echo(f"hint: {hint}", err=True)
    for way in ways_in_clear(ctx.settings):
        click.echo(f"in the clear: {way.text}; {way.mend}", err=True)


def _detach(ctx: CliContext, asked: UpOptions, demo: "DemoAsked | None", played: SimulatedMachines | None) -> ExitCode:
    """Let another process do all this, and wait until it is ready."""
    from twd.cli.detach import start_detached

    more = (*(f"--model={name}" for name in asked.models), *(("--no-models",) if asked.no_models else ()))
    more += (f"--head={asked.head}",) if asked.head else ()
    more += (*(played.options if played else ()), *(("--skip-version-check",) if asked.skip_version_check else ()))
    more += (f"--wait={asked.wait}", *(demo.options if demo else ()))
    return start_detached(ctx, asked.services, asked.demo, choose_view(asked.as_json, False), asked.timeout, more)


def _put_under_guard(ctx: CliContext, terminal: bool) -> None:
    """Let a process watch this one, where no service manager does."""
    ctx.service_manager = NotifySocket.inherited()
    if ctx.service_manager is None and ctx.own_process:
        from twd.supervisor.guard import guard

        ctx.guard = guard(policy_of(ctx.settings.hang_s), terminal=terminal)


def _start(ctx: CliContext, asked: UpOptions, demo: "DemoAsked | None", played: SimulatedMachines | None) -> ExitCode:
    from twd.cli.fork_server import fork_off

    forks = fork_off()
    view = choose_view(asked.as_json, asked.report)
    try:
        if asked.skip_version_check:
            ctx.settings = skipping_version_check(ctx.settings)
        return _run(ctx, asked, demo, played, view, forks)
    except TwdError as error:
        if asked.report:
            code = error.exit_code if isinstance(error, CommandError) else exit_code_of(error.code)
            view.show(StartSnapshot(home=str(ctx.home.path), pid=os.getpid(), rows=[], note=str(error), exit_code=code))
        raise


@dataclass(frozen=True, slots=True)
class DemoAsked:
    """What --demo, --moe and --memory ask for."""

    moe: bool
    memory_mib: int

    @classmethod
    def of(cls, demo: bool, moe: bool, memory: int) -> "DemoAsked | None":
        """None without --demo; raises CommandError if the options do not fit together."""
        if (moe and not demo) or (memory and not moe):
            wanted = "--moe goes with --demo" if moe else "--memory goes with --demo --moe"
            raise CommandError(ExitCode.USAGE, f"{wanted}; for a model of your own: moe_memory_gb in the settings")
        if memory < 0:
            raise CommandError(ExitCode.USAGE, "--memory is a number of MiB above 0")
        return cls(moe, memory) if demo else None

    @property
    def options(self) -> tuple[str, ...]:
        """The same options for another process."""
        return (("--moe",) if self.moe else ()) + ((f"--memory={self.memory_mib}",) if self.memory_mib else ())

    def settings(self, settings: Settings, home: StateFolder, machines: int) -> Settings:
        """The settings with the demo's models, for so many simulated machines."""
        from twd.supervisor.demo import demo_settings, mixture_settings, prepare_demo

        target, draft = prepare_demo(home, mixture=self.moe)
        if self.moe:
            return mixture_settings(settings, target, draft, self.memory_mib, machines)
        return demo_settings(settings, target, draft)


def _run(
    ctx: CliContext,
    asked: UpOptions,
    demo: DemoAsked | None,
    played: SimulatedMachines | None,
    view: StartView,
    forks: ForkServerHandle | None,
) -> ExitCode:
    with _holding(ctx):
        settings, models = ctx.settings, asked.served
        if demo is not None:
            settings = demo.settings(settings, ctx.home, played.machines if played else 1)
        settings = played.settings(settings) if played else settings
        specs = _only_models(settings, _specs(settings, asked.services), models)
        settings = settings if models is None else with_served(settings, models)
        specs += played.agents() if played else []
        measured = demo is not None and not asked.services and view.talks
        return _live(ctx, settings, specs, view, measured, forks, Wait(asked.wait))


@contextmanager
def _holding(ctx: CliContext) -> Iterator[None]:
    """Hold the home, and say from the first moment on who does."""
    home = ctx.home
    try:
        home.acquire()
    except AlreadyRunning as error:
        raise CommandError(ExitCode.ALREADY_RUNNING, str(error)) from error
    _log_to_file(ctx)
    if stale := home.clear_stale():
        click.echo(stale, err=True)
    home.write_instance(_instance(ctx))
    try:
        yield
    finally:
        home.forget_instance()


def _instance(ctx: CliContext) -> RunningInstance:
    """What others read of this process from its first moment on."""
    from twd.process import platform

    pid, now_ms = os.getpid(), time.time_ns() // 1_000_000
    return RunningInstance(
        pid=pid,
        born=platform.born(pid) or 0.0,
        started_ms=now_ms,
        version=twd.__version__,
        node=ctx.node,
        guard=ctx.guard.pid,
        in_terminal=ctx.guard.in_terminal,
    )


def _live(
    ctx: CliContext,
    settings: Settings,
    specs: list[ProcessSpec],
    view: StartView,
    measured: bool,
    forks: ForkServerHandle | None,
    wait: Wait,
) -> ExitCode:
    from twd.process import platform
    from twd.process.heartbeat import Heartbeat, beating
    from twd.supervisor.installation.installation import Installation

    broker = _own_broker(ctx, settings, specs)

    async def live() -> ExitCode:
        installation = Installation(
            settings,
            ctx.home,
            ctx.node,
            specs,
            view,
            measured,
            forks,
            wait,
            ctx.guard,
            ctx.service_manager,
            ctx.read_again if settings is ctx.settings else None,  # those of a demo stand in no file
        )
        async with beating(Heartbeat.inherited()):
            return await installation.run(broker)

    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(live())


def _own_broker(ctx: CliContext, settings: Settings, specs: list[ProcessSpec]) -> "EmbeddedBroker | None":
    """The broker of this installation; None where the settings name one elsewhere."""
    from twd.bus.broker import EmbeddedBroker
    from twd.membership.store import MemberStore

    bus = settings.bus
    store = MemberStore(ctx.home.path)
    played = tuple(dict.fromkeys(spec.node for spec in specs if spec.node))
    users = store.for_broker(ctx.node, played) if bus.lets_others_in else None
    return None if bus.url else EmbeddedBroker(ctx.home.path, bus.host, bus.port, bus.token, users)


def _specs(settings: Settings, services: tuple[str, ...]) -> list[ProcessSpec]:
    from twd.cli.members.own_keys import check_keys
    from twd.supervisor.processes import drafters_missing_here, wanted_processes

    specs = wanted_processes(settings, services)
    for text in drafters_missing_here(settings):
        click.echo(text, err=True)
    known = {spec.name for spec in wanted_processes(settings)}
    known |= {name.split(".")[0] for name in known}
    for name in services:
        if name not in known:
            raise CommandError(
                ExitCode.NOT_FOUND, f"nothing in the settings is called {name!r}; there is: {_listed(known)}"
            )
    check_keys(settings, specs)
    if any(spec.name == "edge" for spec in specs):
        check_door(settings)
        _check_port(settings)
    return specs


def _only_models(settings: Settings, specs: list[ProcessSpec], models: tuple[str, ...] | None) -> list[ProcessSpec]:
    """Without the processes of other models than these; None: all that the settings say are served."""
    if models is None:
        resting = {name for name, model in settings.models.items() if not model.serve}
        return [spec for spec in specs if spec.serves not in resting]
    unknown = [name for name in models if name not in settings.served()]
    if unknown:
        text = (
            f"there is no model {unknown[0]!r} in the settings; there is: {_listed(set(settings.served())) or 'none'}"
        )
        raise CommandError(ExitCode.NOT_FOUND, f"{text}. `twd start -m FILE` serves a file")
    return [spec for spec in specs if not spec.serves or spec.serves in models]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def check_door(settings: Settings) -> None:
    """Refuse here what the edge would fail of again and again: a door open to a network, a certificate of no use."""
    from twd.edge.auth.access_policy import check_bind
    from twd.edge.auth.certificate import tls_context
    from twd.edge.auth.keys import KeyRing, KeyStore

    try:
        ring = KeyRing(KeyStore(settings.home_dir).load(), settings.edge.token)
        check_bind(settings.edge.host, ring, settings.edge.allow_unauthenticated)
        tls_context(settings.edge.tls)
    except TwdError as error:
        raise CommandError(ExitCode.CANNOT_START, str(error)) from None


def _check_port(settings: Settings) -> None:
    """Say who has the port, instead of letting the edge fail again and again."""
    from twd.edge.http.handover import NEXT
    from twd.net.handed_socket import is_offered

    host, port = settings.edge.host, settings.edge.port
    if not port or is_offered(StateFolder(settings.home_dir).run / NEXT):  # `twd upgrade` keeps it for the edge
        return
    if port == settings.bus.port and not settings.bus.url:
        text = f"edge.port and bus.port are both {port}: the API and the broker need a port each"
        raise CommandError(ExitCode.CANNOT_START, text)
    try:
        bindable_port(host, port)
    except OSError as error:
        problem = f"{host}:{port} cannot be used for the API ({error.strerror}){_owner(port)}"
        raise CommandError(ExitCode.CANNOT_START, f"{problem}. Set edge.port or TWD_EDGE_PORT.") from error


def _owner(port: int) -> str:
    from twd.cli.doctor.probes import owner_of

    pid, command = owner_of(port)
    return f"; pid {pid} has it: {command}" if pid else ""


def _log_to_file(ctx: CliContext) -> None:
    from twd.kit import logs
    from twd.process.log_files import LogFile

    log = LogFile(ctx.home.logs, "supervisor")
    log.rotate_if_big()
    settings = ctx.settings
    stream = log.path.open("a", encoding="utf-8")
    logs.set_up(settings.log, secrets=logs.secrets_of(settings), stream=stream, about={"service": "supervisor"})
