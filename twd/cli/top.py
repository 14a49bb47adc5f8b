"""`twd top`: every pool as it works: its stages, their times and queues, the links between them."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from twd.bus.base import Bus, BusError, BusMessage, LeaseEntry, Leases
from twd.cli.common.context import CliContext
from twd.cli.common.core_lines import shared_lines
from twd.cli.common.expert_lines import expert_lines
from twd.cli.common.numbers import SECONDS
from twd.kit.exit_codes import ExitCode
from twd.kit.messages.heard_events import heard_event
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.kit.tasks import heard
from twd.kit.wording import count
from twd.pools.state import PoolState, StageState, forecast
from twd.pools.transfers import TransferState, TransfersView
from twd.pools.view import PoolsView
from twd.process import platform
from twd.process.run_service import StopRequests
from twd.wire.codec import Rejected
from twd.wire.job import TokensAccepted
from twd.wire.node import READY
from twd.wire.ring import FrameRefused, RingMeasured
from twd.wire.routes import ROUTE_OF
from twd.wire.service import read_lease
from twd.wire.swarm import PullFailed, PullFinished, PullProgressed

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

HEARD: Final = (RingMeasured, FrameRefused, TokensAccepted, PullProgressed, PullFinished, PullFailed)
LOOK_S: Final = 1.0
HEADINGS: Final = (
    "machine", "layers", "state", "ms", "planned", "queue ms", "busy", "waste", "dropped", "link", "rtt ms", "B/token",
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One picture, as JSON.")
@click.option(
    "--seconds", default=2.5, type=SECONDS, help="How long to listen before a single picture.", show_default=True
)
@click.option("--once", is_flag=True, help="A single picture, in a terminal too; in a pipe it always is.")
@click.pass_obj
def top(ctx: CliContext, as_json: bool, seconds: float, once: bool) -> ExitCode:
    """Show the models that lie on several machines, live: stages in the order of the ring, times, queues, links; and
    models on their way from machine to machine.

    ms: computing one pass. planned: one token, as the plan had it. waste: positions computed for each that stands.
    B/token: bytes sent on for each token computed. Exit code 0 also where there are no pools.
    """
    live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not (as_json or once)
    return asyncio.run(_live(ctx) if live else _once(ctx, as_json, seconds))


async def _once(ctx: CliContext, as_json: bool, seconds: float) -> ExitCode:
    async with ctx.bus("status") as bus:
        pools, transfers = PoolsView(), TransfersView()
        registry = await _listen(bus, pools, transfers)
        await asyncio.sleep(max(0.0, seconds))
        beside = _look_at(await registry.entries(), pools, transfers)
        states = pools.states(time.monotonic())
    _print(states, beside, as_json)
    return ExitCode.OK


async def _live(ctx: CliContext) -> ExitCode:
    from rich.live import Live

    from twd.kit.terminal import console

    stop = StopRequests(lambda: None)
    platform.on_stop_signals(asyncio.get_running_loop(), stop.request)
    pools, transfers = PoolsView(), TransfersView()
    async with ctx.bus("status") as bus:
        registry = await _listen(bus, pools, transfers)
        with Live(console=console(), auto_refresh=False, screen=True) as screen:
            while not stop.asked.is_set():
                note, beside = await _look(registry, pools, transfers)
                screen.update(drawn(pools.states(time.monotonic()), note, beside), refresh=True)
                await heard(stop.asked, LOOK_S)
    return ExitCode.OK


class Beside(NamedTuple):
    """Lines below the pools: who shares cores, whose experts are read from disk, and what is fetched."""

    cores: Sequence[str] = ()
    experts: Sequence[str] = ()
    transfers: Sequence[TransferState] = ()

    def lines(self, pools: bool) -> list[str]:
        """Those to show; who shares cores counts only beside pools."""
        cores = [f"cores: {line}" for line in self.cores] if pools else []
        fetched = [f"fetch: {one.line}" for one in self.transfers]
        return [*fetched, *cores, *(f"experts: {line}" for line in self.experts)]


NOBODY: Final = Beside()


async def _look(registry: Leases, pools: PoolsView, transfers: TransfersView) -> tuple[str, Beside]:
    """What is wrong with the registry, and what goes on beside the pools."""
    try:
        return "", _look_at(await registry.entries(), pools, transfers)
    except BusError as error:
        return f"the registry cannot be read: {error}", NOBODY


def _look_at(entries: Sequence[LeaseEntry], pools: PoolsView, transfers: TransfersView) -> Beside:
    pools.look(entries)
    read = (read_lease(entry.value, entry.key) for entry in entries)
    leases = [lease for lease in read if lease is not None]
    return Beside(shared_lines(leases), expert_lines(leases), transfers.states(time.monotonic()))


async def _listen(bus: Bus, pools: PoolsView, transfers: TransfersView) -> Leases:
    """Hear what stages, speculators and swarm services tell, and know them."""
    registry = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    pools.look(await registry.entries())

    def hear(message: BusMessage) -> None:
        event = heard_event(message)
        if not isinstance(event, Rejected):
            pools.hear(event, time.monotonic())
            transfers.hear(event, time.monotonic())

    for kind in HEARD:
        await bus.subscribe(ROUTE_OF[kind].pattern, hear)
    return registry


# -- drawing ---------------------------------------------------------------------------------------------


def drawn(states: list[PoolState], note: str = "", beside: Beside = NOBODY) -> "Group":
    """All pools for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Text | Table] = [Text(note, style="red")] if note else []
    for pool in states:
        parts += [Text(headline(pool), style="bold"), stages_table(pool)]
        parts += [Text(f"! {warning}", style="yellow") for warning in pool.warnings]
        parts.append(Text(""))
    parts += [Text(line, style="dim") for line in beside.lines(bool(states))]
    return Group(*(parts or [Text(NOTHING)]))


NOTHING: Final = "no model lies on several machines; `twd up --demo --ring 2` shows one that does"


def _print_pool(pool: PoolState) -> None:
    from twd.kit.terminal import show

    click.echo(headline(pool))
    show(stages_table(pool))
    for warning in pool.warnings:
        click.echo(f"! {warning}")


def _print(states: list[PoolState], beside: Beside, as_json: bool) -> None:
    import msgspec

    if as_json:
        told = {"pools": [msgspec.to_builtins(pool) for pool in states], **beside._asdict()}
        click.echo(msgspec.json.encode(told))
        return
    for pool in states:
        _print_pool(pool)
    lines = beside.lines(bool(states))
    for line in lines:
        click.echo(line)
    if not states and not lines:
        click.echo(NOTHING)


def headline(pool: PoolState) -> str:
    """The pool as a whole, in one line."""
    parts = [
        f"{pool.model}: {pool.engine or 'pool'} of {len(pool.stages)}, home {pool.home or '?'}, {pool.state}",
        f"{pool.tok_s:.1f} tokens/s now",
        count(pool.sessions, "session") + (f" and {pool.waiting} waiting" if pool.waiting else ""),
        f"waste {pool.waste:.2f}" if pool.waste else "",
        forecast(pool),
    ]
    return "; ".join(part for part in parts if part)


def stages_table(pool: PoolState) -> "Table":
    """Its stages in the order in which a pass goes through them."""
    from twd.kit.terminal import table

    rows = table(*HEADINGS)
    for stage in pool.stages:
        rows.add_row(*_cells(stage))
    return rows


def _cells(stage: StageState) -> list[str]:
    from rich.markup import escape

    state = escape(stage.state)
    return [
        escape(stage.node),
        stage.layers,
        state if stage.state == READY else f"[yellow]{state}[/]",
        _figure(stage.ms),
        _figure(stage.predicted_ms),
        _figure(stage.queue_ms),
        f"{stage.busy:.0%}" if stage.passes else "-",
        _figure(stage.waste),
        str(stage.dropped + stage.aborted) if stage.passes else "-",
        escape(stage.to) or "-",
        _figure(stage.rtt_ms),
        f"{stage.bytes_per_token:.0f}" if stage.bytes_per_token else "-",
    ]


def _figure(value: float) -> str:
    return f"{value:.2f}" if value else "-"
