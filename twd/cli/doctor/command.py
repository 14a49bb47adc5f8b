"""`twd doctor`: looks at everything that must be right, and names the command that mends what is not."""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from twd.cli.common.api_address import find_api, running_settings
from twd.cli.common.context import CliContext
from twd.cli.common.core_lines import check_cores
from twd.cli.doctor import checks, live, models, pool, probes, programs
from twd.cli.doctor.findings import Finding, FindingSection, Severity, document, fixable, passed
from twd.cli.doctor.heads import check_heads
from twd.cli.tune.command import look
from twd.kit.connect import address_of
from twd.kit.exit_codes import ExitCode
from twd.process.home import RunningInstance, StateFolder, Unrecorded
from twd.settings.model import Settings
from twd.settings.show import check_settings
from twd.supervisor.model_weights import ModelWeights, read_weights
from twd.wire.failures import TwdError

PAGE: Final = "docs/findings.md"
WORDS: Final = {
    Severity.PASS: ("ok", "green"),
    Severity.WARN: ("look", "yellow"),
    Severity.FAIL: ("FAIL", "red"),
    Severity.SKIP: ("-", "bright_black"),
}


@click.command()
@click.option("--fix", is_flag=True, help="Mend what can be mended safely: permissions and leftovers.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_obj
def doctor(ctx: CliContext, fix: bool, as_json: bool) -> ExitCode:
    """Look at settings, programs, models, memory, ports, services, speculation and servers elsewhere.

    Exit code 0: nothing failed, though there may be things to look at; 3: something failed.
    """
    sections = examine(ctx)
    mended = mend(fixable(sections)) if fix else []
    if mended:
        sections = examine(ctx)
    if as_json:
        click.echo(json.dumps(document(sections, mended)))
    else:
        show(sections, mended)
    return ExitCode.OK if passed(sections) else ExitCode.UNHEALTHY


def examine(ctx: CliContext) -> list[FindingSection]:
    """Look at everything. Settings that cannot be used leave little else to look at."""
    report = check_settings(ctx.config, ctx.environment, Path.cwd(), Path.home())
    settings_findings = checks.check_config(report)
    if report.loaded is None:
        return [FindingSection("Settings", settings_findings)]
    instance = _instance(ctx.home)
    settings = running_settings(ctx) if instance else report.loaded.settings
    embedded = not report.loaded.settings.bus.url
    settings_findings += [checks.check_served(settings), *checks.check_door(settings)]
    build = probes.llama_build()
    weights = read_weights(settings)
    return [
        FindingSection("Settings", settings_findings),
        FindingSection("This machine", [*_machine(ctx), _memory(weights, instance, build)]),
        FindingSection("Programs", _programs(settings, build, embedded)),
        FindingSection("Ports", _ports(settings, instance, embedded)),
        FindingSection("Models", [*_models(weights), *_tuning(weights, settings, instance)]),
        *asyncio.run(_living(ctx, settings, instance, weights)),
    ]


def _instance(home: StateFolder) -> RunningInstance | None:
    """What runs here, as far as anybody can tell."""
    with contextlib.suppress(Unrecorded, PermissionError):
        return home.running()
    return None


def _machine(ctx: CliContext) -> list[Finding]:
    home, folders = ctx.home, pool.check_folders(ctx.settings)
    place = next(folder for folder in (home.path, *home.path.parents) if folder.exists())
    package = importlib.util.find_spec("twd")
    written = Path(package.origin).stat().st_mtime_ns // 1_000_000 if package and package.origin else 0
    return [
        *checks.check_home(home, os.getuid() if hasattr(os, "getuid") else None),
        *folders,
        checks.check_disk(place, shutil.disk_usage(place).free),
        checks.check_clock(time.time_ns() // 1_000_000, written),
    ]


def _models(weights: Sequence[ModelWeights]) -> list[Finding]:
    return [*(found for one in weights for found in models.check_weights(one)), *models.check_pairs(weights)]


def _memory(weights: Sequence[ModelWeights], instance: RunningInstance | None, build: programs.EngineBuild) -> Finding:
    import psutil

    from twd.engine.host_memory.limits import available_bytes

    total = int(psutil.virtual_memory().total)
    return models.check_memory(weights, available_bytes(), total, instance is not None, build.accelerated)


def _programs(settings: Settings, build: programs.EngineBuild, embedded: bool) -> list[Finding]:
    told = probes.nats_version() if embedded else ""
    llama = programs.check_llama(build, settings, probes.wanted_llama())
    return [
        programs.check_nats(told, embedded),
        *llama,
        *pool.check_programs(settings, probes.program_versions(settings)),
    ]


def _ports(settings: Settings, instance: RunningInstance | None, embedded: bool) -> list[Finding]:
    own = frozenset([instance.pid, *instance.processes.values()] if instance else ())
    return [programs.check_port(port, own) for port in probes.needed_ports(settings, embedded and instance is None)]


def _tuning(weights: Sequence[ModelWeights], settings: Settings, instance: RunningInstance | None) -> list[Finding]:
    """What `twd tune` would urge; models that are loaded have found their room."""
    return [] if instance is not None else pool.check_tuning(weights, settings, look(None, measure=False))


async def _living(
    ctx: CliContext, settings: Settings, instance: RunningInstance | None, weights: Sequence[ModelWeights]
) -> list[FindingSection]:
    """What runs, here and elsewhere, all asked at once."""
    outside = bool(ctx.settings.bus.url)
    bus, api = await asyncio.gather(_bus(ctx, bool(instance) or outside), _api(ctx, instance))
    elsewhere = await probes.look_elsewhere(settings, bus.nodes if bus else ())
    address = address_of(settings.bus).shown or (instance.bus_url if instance else "")
    found = [live.check_bus(bus, address, outside)]
    leases = bus.leases if bus else ()
    if bus is not None and not bus.problem:
        pids = {lease.pid for lease, _ in leases}
        processes = instance.processes.items() if instance else ()
        leaseless = instance.leaseless if instance else ()
        told = instance.missing if instance else {}
        missing = {name: told.get(name, "") for name, pid in processes if pid not in pids and name not in leaseless}
        found += live.check_services(leases, missing)
        found += live.check_clocks(leases, time.time_ns() // 1_000_000)
    return [
        FindingSection("Services", [*found, live.check_api(api)]),
        FindingSection("Speculation", [*live.check_speculation(leases), *check_cores(lease for lease, _ in leases)]),
        FindingSection(
            "Machines",
            [*pool.check_machines(bus.nodes if bus else ()), *pool.check_fetches(lease for lease, _ in leases)],
        ),
        FindingSection(
            "Elsewhere",
            [
                *(live.check_server(look) for look in elsewhere),
                *pool.check_families(settings, weights, elsewhere),
                *check_heads(settings, weights),
            ],
        ),
    ]


async def _bus(ctx: CliContext, expected: bool) -> live.BusProbe | None:
    if not expected:
        return None
    try:
        return await probes.look_at_bus(ctx.with_bus(), ctx.node)
    except TwdError as error:  # it has just started: nobody knows its broker yet
        return live.BusProbe(problem=str(error))


async def _api(ctx: CliContext, instance: RunningInstance | None) -> live.ApiProbe | None:
    if instance is None or "edge" not in instance.processes:
        return None
    try:
        return await probes.look_at_api(find_api(ctx))
    except TwdError as error:
        return live.ApiProbe("API", problem=str(error))


def mend(findings: Sequence[Finding]) -> list[str]:
    """Mend what is safe to mend; returns what was done, in words."""
    done = []
    for finding in findings:
        assert finding.fix is not None
        try:
            finding.fix()
            done.append(finding.detail)
        except (OSError, TwdError) as error:
            click.echo(f"not mended: {finding.detail} ({error})", err=True)
    return done


def _show_finding(finding: Finding, colour: bool | None) -> None:
    word, fg = WORDS[finding.verdict]
    click.echo(f"  {click.style(f'{word:<5}', fg=fg)} {finding.name}: {finding.detail}", color=colour)
    if finding.mend:
        click.echo(f"        $ {finding.mend}", color=colour)


def show(sections: Sequence[FindingSection], mended: Sequence[str]) -> None:
    """Print for people."""
    colour = False if "NO_COLOR" in os.environ else None
    for words in mended:
        click.secho(f"mended: {words}", fg="green", color=colour)
    told: set[str] = set()
    for section in sections:
        if section.findings:
            click.secho(section.title, bold=True, color=colour)
        for finding in section.findings:
            _show_finding(finding, colour)
            told |= {finding.id} if finding.id else set()
    if told:
        click.echo(f"what each means: {PAGE} ({', '.join(sorted(told))})")
    if fixable(sections):
        click.echo("`twd doctor --fix` mends some of this")
