"""`twd load` and `twd reclaim`: a model comes into memory with care, and memory that is not needed goes back."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.models.command import change, file_of, local_name, reclaim_option, start_house, timeout_option
from twd.engine.host_memory.limits import gib
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.settings.paths import path_of
from twd.wire.base import InstanceId
from twd.wire.life import MemoryReclaimed, ModelWanted, ReclaimWanted
from twd.wire.service import ServiceLease

if TYPE_CHECKING:
    from twd.bus.base import BusMessage
    from twd.bus.nats.bus import NatsBus

ANSWERS_S: Final = 60.0


@click.command()
@click.argument("model")
@reclaim_option
@click.option("--no-prewarm", is_flag=True, help="Do not read the file ahead, even if it nearly fills the memory.")
@timeout_option
@click.pass_obj
def load(ctx: CliContext, model: str, ram_reclaim: str | None, no_prewarm: bool, timeout: float) -> ExitCode:
    """Serve a model as `twd start` does, and show what it does to this machine's memory."""
    from twd.engine.host_memory.page_cache import cached_bytes
    from twd.gguf_tools.inspect import inspect

    path = Path(file_of(running_settings(ctx), ctx.node, model)[1].path)
    info = inspect(path)
    click.echo(
        f"{info.name}: {info.architecture}, {info.quantization}, {count(info.layers, 'layer')}, {gib(info.size_bytes)}"
    )
    click.echo(_outlook(ctx, model, info.size_bytes, ram_reclaim, not no_prewarm))
    before = cached_bytes(info.shards)
    start_house(ctx, "", False, timeout)
    name = local_name(model, "")
    wish = ModelWanted(node=ctx.here, model=name, ram_reclaim=ram_reclaim or "", prewarm=not no_prewarm)
    code = change(ctx, wish, timeout, False)
    if code is ExitCode.OK:
        _show_effect(ctx, path, info.shards, before)
    return code


def _outlook(ctx: CliContext, model: str, size: int, ram_reclaim: str | None, prewarm: bool) -> str:
    from twd.engine.host_memory.limits import available_bytes
    from twd.engine.host_memory.load_plan import ram_plan

    settings = ctx.settings
    mmap = settings.models[model].mmap if model in settings.models else "auto"
    free = available_bytes()
    reclaim = ram_reclaim or settings.ram_reclaim
    plan = ram_plan(size, free, reclaim=reclaim, prewarm=prewarm and settings.prewarm, mmap=mmap)
    return f"{gib(free)} of memory are free; it will be {plan.words()}"


def _show_effect(ctx: CliContext, path: Path, files: Sequence[Path], cached_before: int) -> None:
    from twd.engine.host_memory.page_cache import footprint
    from twd.wire.leases.speculator import SpeculatorFacts

    here = ctx.here
    for lease in asyncio.run(_holders(ctx)):
        told = lease.told(SpeculatorFacts)
        if lease.node == here and told is not None and told.file == path.name:
            after = footprint(files, lease.pid)
            click.echo(
                f"pid {lease.pid} holds {gib(after.rss)}; page cache of the file: "
                f"{_size(cached_before)} before, {_size(after.cached)} now"
            )


def _size(count: int) -> str:
    return gib(count) if count >= 0 else "not measurable here"


@click.command()
@click.argument("model", required=False, default="")
@click.option("--file", "file", type=click.Path(path_type=Path), help="Forget this file instead; nothing need run.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def reclaim(ctx: CliContext, model: str, file: Path | None, as_json: bool) -> ExitCode:
    """Give back memory that models do not need: mapped pages, and the system's copies of their files.

    What is needed after all is read again. Without a name, all models of this machine.
    """
    if file is not None:
        return _forget(file, as_json)
    told, silent = asyncio.run(_reclaim(ctx, model))
    if as_json:
        click.echo(json.dumps([_document(one) for one in told]))
    else:
        for one in told:
            click.echo(_words(one))
    for name in silent:
        click.echo(f"{name} did not answer within {ANSWERS_S:g} s", err=True)
    return ExitCode.UNHEALTHY if silent or any(one.problem for one in told) else ExitCode.OK


def _forget(file: Path, as_json: bool) -> ExitCode:
    from twd.engine.host_memory.page_cache import cached_bytes, drop
    from twd.gguf_tools.inspect import shards_of

    path = path_of(file)
    if not path.is_file():
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {path}")
    files = shards_of(path)
    before = cached_bytes(files)
    drop(files)
    after = cached_bytes(files)
    if as_json:
        click.echo(json.dumps({"file": str(path), "cached_before": before, "cached_after": after}))
    else:
        click.echo(f"{path}: page cache {_size(before)} before, {_size(after)} now")
        if after > before // 2 > 0:
            click.echo("a running process has it mapped; `twd reclaim` without --file asks twd's own", err=True)
    return ExitCode.OK


def _words(told: MemoryReclaimed) -> str:
    if told.problem:
        return f"{told.model}: {told.problem}"
    return (
        f"{told.model}: resident {gib(told.rss_before)} -> {gib(told.rss_after)}, "
        f"page cache of its file {gib(told.cached_before)} -> {gib(told.cached_after)}"
    )


def _document(told: MemoryReclaimed) -> dict[str, object]:
    fields = ("model", "rss_before", "rss_after", "cached_before", "cached_after", "problem")
    return {"process": told.source, **{field: getattr(told, field) for field in fields}}


async def _reclaim(ctx: CliContext, model: str) -> tuple[list[MemoryReclaimed], list[str]]:
    async with ctx.bus("admin") as bus:
        here = ctx.here
        held = [lease for lease in await _leases(bus) if lease.node == here]
        waiting = {lease.instance for lease in held if model in ("", lease.model)}
        if not waiting:
            served = ", ".join(sorted({lease.model for lease in held})) or "none"
            raise CommandError(ExitCode.NOT_FOUND, f"no process here holds {model or 'a model'}; served: {served}")
        told: list[MemoryReclaimed] = []
        await _collect(bus, ReclaimWanted(node=here, model=model), waiting, told)
        return told, sorted(waiting - {one.source for one in told})


async def _collect(bus: "NatsBus", wish: ReclaimWanted, waiting: set[InstanceId], told: list[MemoryReclaimed]) -> None:
    """Ask, and listen until everybody has answered or the time is up."""
    from twd.kit.messages.heard_events import heard_event
    from twd.wire.codec import encode
    from twd.wire.routes import ROUTE_OF, subject_of

    all_here = asyncio.Event()

    def hear(message: "BusMessage") -> None:
        event = heard_event(message)
        if isinstance(event, MemoryReclaimed) and event.source in waiting:
            told.append(event)
            if len(told) >= len(waiting):
                all_here.set()

    await bus.subscribe(ROUTE_OF[MemoryReclaimed].pattern, hear)
    from twd.kit.messages.heard_events import stamp

    signed = stamp(wish, bus.name)
    bus.publish(subject_of(signed), encode(signed))
    try:
        async with asyncio.timeout(ANSWERS_S):
            await all_here.wait()
    except TimeoutError:
        return


async def _holders(ctx: CliContext) -> list[ServiceLease]:
    async with ctx.bus("status") as bus:
        return await _leases(bus)


async def _leases(bus: "NatsBus") -> list[ServiceLease]:
    """Processes that hold a model in their memory."""
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.wire.leases.speculator import SpeculatorFacts
    from twd.wire.service import read_lease, told_by

    entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    leases = (read_lease(entry.value, entry.key) for entry in entries)
    return [lease for lease, facts in told_by(leases, SpeculatorFacts) if facts.loaded]
