"""`twd up`: everything that one machine needs, under one supervisor, in one terminal."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

import twd
from twd.cli.context import Ground
from twd.cli.errors import CommandError
from twd.cli.life_core import skipping_version_check, with_served
from twd.cli.numbers import SECONDS, Within
from twd.cli.picture import Picture, View, choose_view
from twd.cli.played import Played
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.kit.home import AlreadyRunning, Home, Instance
from twd.kit.nursery import Inherited
from twd.kit.ports import bindable_port
from twd.kit.settings import Settings
from twd.kit.supervisor import ProcessSpec
from twd.wire.failures import TwdError

READY_S: Final = 600.0


@click.command()
@click.argument("services", metavar="[SERVICE]...", nargs=-1)
@click.option("--demo", is_flag=True, help="With a small real model, so that there is something to talk to.")
@click.option("-m", "--model", "models", multiple=True, help="Serve only this model of the settings; more than once.")
@click.option("--no-models", is_flag=True, help="Serve no model yet: `twd start` adds them.")
@click.option("--rpc", default=0, help="The models over so many RPC workers here, as if on other machines.")
@click.option("--ring", default=0, help="The models over a ring of so many stages here.")
@click.option("--link-rtt", default=0.0, type=Within(0.0, 60_000), help="Milliseconds to and from each of them.")
@click.option("--skip-version-check", is_flag=True, help="Use machines of the pool whose engine does not match.")
@click.option("-d", "--detach", is_flag=True, help="Return when all is ready; `twd down` ends it.")
@click.option("--json", "as_json", is_flag=True, help="Print addresses and processes as JSON when all is ready.")
@click.option("--timeout", default=READY_S, show_default=True, type=SECONDS, help="Seconds until -d gives up.")
@click.option("--report", is_flag=True, hidden=True)
@click.pass_obj
def up(
    ground: Ground,
    services: tuple[str, ...],
    demo: bool,
    models: tuple[str, ...],
    no_models: bool,
    rpc: int,
    ring: int,
    link_rtt: float,
    skip_version_check: bool,
    detach: bool,
    as_json: bool,
    timeout: float,
    report: bool,
) -> ExitCode:
    """Start broker and services, and keep them alive. The first Ctrl-C drains, the second kills."""
    played = Played.asked(rpc, ring, link_rtt)
    home = ground.home
    home.prepare()
    if not report:
        for hint in ground.loaded.hints:
            click.echo(f"hint: {hint}", err=True)
    if detach:
        from twd.cli.detach import start_detached

        more = (*(f"--model={name}" for name in models), *(("--no-models",) if no_models else ()))
        more += (*(played.options if played else ()), *(("--skip-version-check",) if skip_version_check else ()))
        return start_detached(ground, services, demo, choose_view(as_json, False), timeout, more)
    from twd.cli.nursery import fork_off

    forks = fork_off()
    view = choose_view(as_json, report)
    try:
        if skip_version_check:
            ground.settings = skipping_version_check(ground.settings)
        return _run(ground, home, services, demo, played, None if not (models or no_models) else models, view, forks)
    except TwdError as error:
        if report:
            code = error.exit_code if isinstance(error, CommandError) else exit_code_of(error.code)
            view.show(Picture(home=str(home.path), pid=os.getpid(), rows=[], note=str(error), exit_code=code))
        raise


def _run(
    ground: Ground,
    home: Home,
    services: tuple[str, ...],
    demo: bool,
    played: Played | None,
    models: tuple[str, ...] | None,
    view: View,
    forks: Inherited | None,
) -> ExitCode:
    with _holding(ground, home):
        settings = ground.settings
        if demo:
            from twd.cli.demo import demo_settings, prepare_demo

            settings = demo_settings(settings, *prepare_demo(home))
        settings = played.settings(settings) if played else settings
        specs = _only_models(settings, _specs(settings, services), models)
        settings = settings if models is None else with_served(settings, models)
        specs += played.agents() if played else []
        return _live(ground, settings, specs, view, demo and not services and view.talks, forks)


@contextmanager
def _holding(ground: Ground, home: Home) -> Iterator[None]:
    """Hold the home, and say from the first moment on who does."""
    from twd.kit import platform

    try:
        home.acquire()
    except AlreadyRunning as error:
        raise CommandError(ExitCode.ALREADY_RUNNING, str(error)) from error
    _log_to_file(ground)
    if stale := home.clear_stale():
        click.echo(stale, err=True)
    pid, now_ms = os.getpid(), time.time_ns() // 1_000_000
    born = platform.born(pid) or 0.0
    home.write_instance(Instance(pid=pid, born=born, started_ms=now_ms, version=twd.__version__, node=ground.node))
    try:
        yield
    finally:
        home.forget_instance()


def _live(
    ground: Ground,
    settings: Settings,
    specs: list[ProcessSpec],
    view: View,
    measured: bool,
    forks: Inherited | None,
) -> ExitCode:
    from twd.bus.broker import EmbeddedBroker
    from twd.cli.installation import Installation
    from twd.kit import platform

    bus = settings.bus
    broker = None if bus.url else EmbeddedBroker(ground.home.path, bus.host, bus.port, bus.token)

    async def live() -> ExitCode:
        return await Installation(settings, ground.home, ground.node, specs, view, measured, forks).run(broker)

    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(live())


def _specs(settings: Settings, services: tuple[str, ...]) -> list[ProcessSpec]:
    from twd.cli.wanted import drafters_missing_here, wanted_processes

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
    if any(spec.name == "edge" for spec in specs):
        _check_door(settings)
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


def _check_door(settings: Settings) -> None:
    """Refuse here what the edge would fail of again and again: a door open to a network, a certificate of no use."""
    from twd.edge.certificate import tls_context
    from twd.edge.door import check_bind
    from twd.edge.keys import KeyRing, KeyStore

    try:
        ring = KeyRing(KeyStore(settings.home_dir).load(), settings.edge.token)
        check_bind(settings.edge.host, ring, settings.edge.allow_unauthenticated)
        tls_context(settings.edge.tls)
    except TwdError as error:
        raise CommandError(ExitCode.CANNOT_START, str(error)) from None


def _check_port(settings: Settings) -> None:
    """Say who has the port, instead of letting the edge fail again and again."""
    host, port = settings.edge.host, settings.edge.port
    if not port:
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
    from twd.cli.doctor_probes import owner_of

    pid, command = owner_of(port)
    return f"; pid {pid} has it: {command}" if pid else ""


def _log_to_file(ground: Ground) -> None:
    from twd.kit import logs
    from twd.kit.log_files import LogFile

    log = LogFile(ground.home.logs, "supervisor")
    log.rotate_if_big()
    settings = ground.settings
    stream = log.path.open("a", encoding="utf-8")
    logs.set_up(settings.log, secrets=logs.secrets_of(settings), stream=stream, about={"service": "supervisor"})
