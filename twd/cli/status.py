"""`twd status`: who is there, how they are, and what they can do."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from twd.cli.common.context import CliContext
from twd.cli.common.core_lines import shared_lines
from twd.cli.common.expert_lines import expert_lines
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.pools.state import PoolState, forecast
from twd.pools.view import PoolsView
from twd.process.process_table import WELL, StartPhase, shown_stage, stage_of
from twd.wire.leases.reading import shown_facts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.ring import HopFacts
from twd.wire.service import ServiceLease

NO_LEASE: Final = "its process runs or restarts, but it holds no lease"
COUNTS: Final = ("sessions", "waiting")
"""Facts that are shown even if they are 0."""
STYLES: Final = {
    StartPhase.READY: "green",
    StartPhase.DEGRADED: "yellow",
    StartPhase.MISSING: "yellow",
    StartPhase.FAILED: "red",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_obj
def status(ctx: CliContext, as_json: bool) -> ExitCode:
    """Services, nodes and models by what they say of themselves, and whether it is recent.

    Exit code 0: all is well; 3: something is not; 4: nothing runs.
    """
    found, pools = asyncio.run(_leases(ctx))
    missing = _missing(ctx, found)
    if as_json:
        click.echo(json.dumps(_as_json(found, missing, _addresses(ctx)) | {"pools": [_pool_json(p) for p in pools]}))
    else:
        _print(found, missing, _addresses(ctx))
        for pool in pools:
            _print_pool(pool)
    if not found:
        return ExitCode.NOTHING_RUNS
    well = not missing and all(stage_of(lease) in WELL for lease, _ in found)
    return ExitCode.OK if well else ExitCode.UNHEALTHY


async def _leases(ctx: CliContext) -> tuple[list[tuple[ServiceLease, float]], list[PoolState]]:
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.wire.service import read_lease

    async with ctx.bus("status") as bus:
        entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    leases = [(lease, entry.age_s) for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
    pools = PoolsView()
    pools.look(entries)
    order = sorted(leases, key=lambda pair: (pair[0].node, pair[0].service, pair[0].started_ms))
    return order, [pool for pool in pools.states(time.monotonic()) if pool.predicted_ms]


def _missing(ctx: CliContext, found: list[tuple[ServiceLease, float]]) -> dict[str, str]:
    """Processes of this machine's supervisor that hold no lease, and why; some may play machines of their own."""
    instance = ctx.instance()
    processes, here = (instance.processes, instance.node) if instance else ({}, "")
    pids = {lease.pid for lease, _ in found if lease.node == here or f"agent.{lease.node}" in processes}
    leaseless = instance.leaseless if instance else ()
    told = instance.missing if instance else {}
    return {
        name: told.get(name) or NO_LEASE for name, pid in processes.items() if pid not in pids and name not in leaseless
    }


def _addresses(ctx: CliContext) -> dict[str, str]:
    instance = ctx.instance()
    return instance.addresses if instance else {}


def _as_json(
    found: list[tuple[ServiceLease, float]], missing: dict[str, str], addresses: dict[str, str]
) -> dict[str, Any]:
    return {
        "healthy": bool(found) and not missing and all(stage_of(lease) in WELL for lease, _ in found),
        "addresses": addresses,
        "missing": list(missing),
        "causes": missing,
        "nodes": sorted({lease.node for lease, _ in found}),
        "services": [_service_json(lease, age_s) for lease, age_s in found],
    }


def _pool_json(pool: PoolState) -> dict[str, Any]:
    return {
        "model": pool.model,
        "engine": pool.engine,
        "stages": [f"{stage.node} {stage.layers}" for stage in pool.stages],
        "predicted_ms": pool.predicted_ms,
        "measured_ms": pool.token_ms,
        "warnings": pool.warnings,
        "notes": pool.notes,
    }


def _service_json(lease: ServiceLease, age_s: float) -> dict[str, Any]:
    return {
        "service": lease.service,
        "instance": lease.instance,
        "node": lease.node,
        "pid": lease.pid,
        "version": lease.version,
        "health": lease.health.value,
        "state": shown_stage(lease).value,
        "note": lease.note,
        "started_ms": lease.started_ms,
        "seen_s": round(age_s, 1),
        "facts": shown_facts(lease.facts),
        **({"unread": lease.unread} if lease.unread else {}),
    }


def _print_pool(pool: PoolState) -> None:
    click.echo(f"{pool.model} over {len(pool.stages)} {pool.engine} stages or workers: {forecast(pool)}")
    for note in pool.notes:
        click.echo(f"  {note}")


def _print(found: list[tuple[ServiceLease, float]], missing: dict[str, str], addresses: dict[str, str]) -> None:
    from rich.markup import escape

    from twd.kit.terminal import console, show, table

    if not found and not missing:
        raise CommandError(ExitCode.NOTHING_RUNS, "the broker runs, but no service does")
    rows = table("node", "service", "state", "seen", "up", "pid", "")
    for lease, age_s in found:
        stage = shown_stage(lease)
        up = short_time(time.time() - lease.started_ms / 1000)
        state = f"[{STYLES[stage]}]{stage}[/]" if stage in STYLES else str(stage)
        who = escape(lease.node), escape(lease.service)
        rows.add_row(*who, state, f"{age_s:.0f} s ago", up, str(lease.pid), _details(lease))
    for name, why in missing.items():
        rows.add_row("", escape(name), "[red]missing[/]", "", "", "", escape(why))
    show(rows)
    _print_engines([lease for lease, _ in found])
    for name, address in addresses.items():
        console().print(f"[dim]{name:8}[/] {escape(address)}")


def _print_engines(leases: Sequence[ServiceLease]) -> None:
    """What the services tell of pools, rejected drafts, shared cores and experts."""
    from rich.markup import escape

    from twd.kit.terminal import console

    for lease in leases:
        for line in _pool(lease):
            console().print(line, highlight=False)
    for lease in leases:
        told = lease.told(SpeculatorFacts)
        if told is not None and told.rollback:
            console().print(f"[dim]rollback[/] {escape(f'{told.model}: {told.rollback}')}", highlight=False)
    for line in shared_lines(leases):
        console().print(f"[dim]cores[/] {escape(line)}", highlight=False)
    for line in expert_lines(leases):
        console().print(f"[dim]experts[/] {escape(line)}", highlight=False)


def _details(lease: ServiceLease) -> str:
    from rich.markup import escape

    names = ("model", "quantization", "ctx_size", "url", "sessions", "waiting", "token_ms", "step_ms")
    told = shown_facts(lease.facts) if lease.facts.ready else {"model": lease.model}
    known = {name: told[name] for name in names if told.get(name) or (name in COUNTS and name in told)}
    facts = [f"{value}" if name in ("model", "url") else f"{name} {value}" for name, value in known.items()]
    return escape(", ".join(filter(None, (*facts, lease.note, lease.unread))))


def _pool(lease: ServiceLease) -> Iterator[str]:
    """Where a pooled model lies, and what its links carry."""
    from rich.markup import escape

    told = lease.told(SpeculatorFacts)
    if told is None or not told.pool:
        return
    yield f"[dim]{escape(told.model)} lies on a pool by {escape(told.engine)}:[/]"
    yield from (f"  {escape(part)}" for part in told.pool)
    yield from (f"  [dim]link[/] {escape(link_words(link, told.tokens))}" for link in told.links)


def link_words(link: HopFacts, tokens: int) -> str:
    """A link's round trip and what it carried: for each token, or in all where tokens are not counted."""
    trip = f"{link.to} {link.rtt_ms:g} ms"
    sent, received = link.sent_bytes, link.received_bytes
    if tokens:
        return f"{trip}, {sent // tokens} bytes there and {received // tokens} back a token"
    return f"{trip}, {sent} bytes there, {received} back" if sent or received else trip


def short_time(seconds: float) -> str:
    """A span as people say it: 12 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
