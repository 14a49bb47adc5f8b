"""`twd plan MODEL`: which layers would go where, with what they take and how quick it would be. Starts nothing."""

import asyncio
import os
from typing import TYPE_CHECKING

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.common.head_option import head_lines, head_option
from twd.cli.common.measured_speed import beside_measured, measured_tok_s
from twd.cli.models.command import file_of
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count, figure
from twd.supervisor.model_changes import is_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twd.bus.base import LeaseEntry
    from twd.coordinator.core.processes import WantedModel
    from twd.settings.model import Settings
    from twd.wire.node import NodeFacts
    from twd.wire.placement import PlacementDecided, Slice


@click.command()
@click.argument("model", required=False, default="")
@click.option(
    "--ctx", default=0, type=click.IntRange(min=0), help="Tokens of context for one session, instead of the settings'."
)
@head_option
@click.option("--sessions", default=0, type=click.IntRange(min=0), help="Sessions at once, instead of the settings'.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def plan(command_context: CliContext, model: str, ctx: int, head: str, sessions: int, as_json: bool) -> ExitCode:
    """Where a model would go on the machines that are there: a name in the settings, or a GGUF file.

    Without a running twd it plans for this machine alone. Of a model that runs here, but is not in the settings, or
    not in a pool there, it shows what was decided. Exit code 3 when the model does not fit.
    """
    name = model or command_context.settings.default_model
    entries = asyncio.run(_entries(command_context))
    standing = _standing(command_context, name, entries)
    if standing is not None and not (ctx or sessions or head):
        return _show_standing(standing, measured_tok_s(entries, standing.model), as_json)
    wanted = _wanted_model(command_context, name, ctx, sessions)
    nodes = _nodes_for(command_context, wanted, entries)
    decision, forecast = _decide(command_context, wanted, nodes, entries)
    measured = measured_tok_s(entries, decision.model)
    if as_json:
        _print_document(decision, nodes, forecast, measured)
    else:
        _print_wanted(wanted)
        _print_decision(decision, len(nodes))
        for line in (*forecast, *beside_measured(decision, measured), *_about_cores(command_context, decision, nodes)):
            click.echo(line)
        for line in (*_about_heads(command_context, model, head), *_about_experts(command_context, model, nodes)):
            click.echo(line)
    return ExitCode.UNHEALTHY if decision.missing_bytes else ExitCode.OK


def _nodes_for(command_context: CliContext, wanted: "WantedModel", entries: "list[LeaseEntry]") -> "list[NodeFacts]":
    """The machines, with the speeds that were measured of this model there."""
    from twd.cli.plan.live_steps import with_live_steps

    nodes = asyncio.run(_nodes(command_context, entries))
    return with_live_steps(nodes, entries, wanted.name, wanted.shape)


def _print_document(
    decision: "PlacementDecided", nodes: "list[NodeFacts]", forecast: list[str], measured: float
) -> None:
    import msgspec

    told = {
        "nodes": [facts.node for facts in nodes],
        "forecast": forecast,
        "measured_tok_s": measured,
        **msgspec.to_builtins(decision),
    }
    click.echo(msgspec.json.encode(told))


def _print_wanted(wanted: "WantedModel") -> None:
    layers = len(wanted.shape.layer_bytes) if wanted.shape is not None else 0
    click.echo(f"{wanted.name}: {count(layers, 'layer')}, {count(wanted.sessions, 'session')} of {wanted.ctx} tokens")


def _about_cores(
    command_context: CliContext, decision: "PlacementDecided", nodes: "list[NodeFacts]"
) -> "Iterator[str]":
    """Which cores each process of it would get."""
    from twd.cli.plan.cores import planned_lines

    lines = planned_lines(decision, {facts.node: facts for facts in nodes}, command_context.settings.drafters)
    return (f"cores: {line}" for line in lines)


def _wanted_model(command_context: CliContext, name: str, ctx: int, sessions: int) -> "WantedModel":
    from dataclasses import replace

    from twd.coordinator.core.processes import WantedModel
    from twd.coordinator.model_shape import read_shape
    from twd.coordinator.wanted import wanted_of
    from twd.wire.failures import FailureCode, TwdError

    settings = _settings_with(command_context, name)
    name = name or settings.default_model
    if not name:
        raise CommandError(ExitCode.USAGE, "the settings name no model; give a GGUF file with `twd plan FILE`")
    called, model = file_of(settings, command_context.node, name)
    try:
        shape = read_shape(called, model, settings.pool.engine, home=command_context.home.path)
    except TwdError as error:
        if error.code is not FailureCode.UNSUPPORTED:
            raise
        return WantedModel(called, ctx or model.ctx_size, sessions or model.parallel, problem=str(error))
    most = shape.ctx_size or model.ctx_size
    wanted = wanted_of(shape.name, model, shape)
    if called not in command_context.settings.models:
        wanted = replace(wanted, file=None)  # no machine was to have a copy yet
    return replace(wanted, ctx=ctx or min(model.ctx_size or most, most), sessions=sessions or model.parallel)


def _about_heads(command_context: CliContext, name: str, head: str) -> "Iterator[str]":
    """What guesses for the model without a model of its own."""
    from pathlib import Path

    from twd.gguf_tools.inspect import inspect
    from twd.supervisor.model_changes import with_head

    settings = _settings_with(command_context, name)
    called, model = file_of(settings, command_context.node, name or settings.default_model)
    asked = with_head(settings, head) if head else settings
    return (f"head: {line}" for line in head_lines(asked, called, inspect(Path(model.path))))


def _about_experts(command_context: CliContext, name: str, nodes: "list[NodeFacts]") -> list[str]:
    """What a mixture lacks on these machines together."""
    from pathlib import Path

    from twd.moe.advice import advice_for

    settings = _settings_with(command_context, name)
    path = Path(file_of(settings, command_context.node, name or settings.default_model)[1].path)
    free = sum(facts.memory.available + sum(gpu.free for gpu in facts.gpus if not gpu.shared) for facts in nodes)
    return [f"experts: {one.text}; {one.command}" for one in advice_for(path, free)]


def _settings_with(command_context: CliContext, name: str) -> "Settings":
    """Those that name the model: this folder's, else those of what runs."""
    here = command_context.settings
    return here if name in here.models else running_settings(command_context)


def _standing(command_context: CliContext, name: str, entries: "list[LeaseEntry]") -> "PlacementDecided | None":
    """The decision that stands for a model which only the running system knows or has in a pool; without a name, for
    its only one."""
    from twd.wire.placement import read_placement

    here = command_context.settings
    known = name in here.models and not _only_pooled_there(here, running_settings(command_context), name)
    if known or (name and is_path(name)):
        return None
    read = (read_placement(entry.value, entry.key) for entry in entries)
    found = [one for one in read if one is not None and name in ("", one.model) and one.replica == 1]
    return found[0] if len(found) == 1 else None


def _only_pooled_there(here: "Settings", running: "Settings", name: str) -> bool:
    """Whether the same model is in a pool where it runs and not by these settings, as with `twd up --ring 2`."""
    return running.pooled and not here.pooled and running.models.get(name) == here.models[name]


def _show_standing(decision: "PlacementDecided", measured: float, as_json: bool) -> ExitCode:
    import msgspec

    from twd.coordinator.core.fetching import fetch_line
    from twd.coordinator.core.forecast import bottleneck

    if as_json:
        told = {"forecast": [bottleneck(decision)], "measured_tok_s": measured, **msgspec.to_builtins(decision)}
        click.echo(msgspec.json.encode(told))
    else:
        click.echo(f"{decision.model}: as it was decided; `twd top` shows how it works")
        _print_decision(decision, len({piece.node for piece in decision.slices}))
        for line in (fetch_line(decision, {}), bottleneck(decision), *beside_measured(decision, measured)):
            if line:
                click.echo(line)
    return ExitCode.UNHEALTHY if decision.missing_bytes else ExitCode.OK


async def _entries(command_context: CliContext) -> "list[LeaseEntry]":
    """The registry; empty where no bus is."""
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S

    try:
        async with command_context.bus("status") as bus:
            return await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    except CommandError as error:
        if error.exit_code is not ExitCode.NOTHING_RUNS:
            raise
        return []


async def _nodes(command_context: CliContext, entries: "list[LeaseEntry]") -> "list[NodeFacts]":
    """The machines on the bus; this one alone where no bus is."""
    from twd.supervisor.pool_registry import nodes_of

    nodes = nodes_of(entries)
    here = command_context.here
    return nodes if any(facts.node == here for facts in nodes) else [*nodes, await _this_machine(command_context)]


async def _this_machine(command_context: CliContext) -> "NodeFacts":
    from twd.agent.detect import MachineDetector
    from twd.wire.base import InstanceId

    return await MachineDetector(command_context.settings, command_context.node, InstanceId("plan"), os.getpid()).look(
        0.0
    )


def _decide(
    command_context: CliContext, model: "WantedModel", nodes: "list[NodeFacts]", entries: "list[LeaseEntry]"
) -> "tuple[PlacementDecided, list[str]]":
    """Where the model goes; and in lines what holds it up, and what another machine would bring."""
    from twd.coordinator.core.fetching import aim, fetch_line
    from twd.coordinator.core.forecast import bottleneck, one_more
    from twd.coordinator.core.machines.configured_devices import all_given
    from twd.coordinator.core.model_placement import decide, with_spares
    from twd.coordinator.core.standby import carried
    from twd.coordinator.core.state import WantedState
    from twd.coordinator.links import LinkTable
    from twd.supervisor.pool_registry import observed_of, without
    from twd.wire.base import InstanceId

    links, here = LinkTable(), command_context.here
    asyncio.run(links.measure((facts for facts in nodes if facts.node != here), 0.0))
    wanted = WantedState(here, InstanceId("plan"), command_context.settings.pool, (model,))
    observed = observed_of(entries, nodes, links, here)
    observed.nodes = all_given(observed.nodes, command_context.settings.pool, here)
    found = aim(wanted, observed)
    aimed = found.aim.decision if found is not None else None
    decision = carried(aimed or decide(wanted, observed, model), observed.decided.get(model.name))
    if command_context.settings.pool.engine == "ring" and not decision.missing_bytes:
        decision = with_spares(wanted, observed, model, decision)
    more = one_more(wanted, without(observed, [model.name]), model, decision)
    return decision, [line for line in (fetch_line(decision, observed.links), bottleneck(decision), more) if line]


def _print_decision(decision: "PlacementDecided", machines: int) -> None:
    from twd.coordinator.core.memory_ledger import total
    from twd.engine.host_memory.limits import gib

    if decision.slices:
        _print_slices(decision)
        click.echo(
            f"about {figure(decision.plain_tok_s)} tokens/s plain, {figure(decision.speculative_tok_s)} with a drafter "
            f"that is right three times in four; an estimate from {count(machines, 'machine')}"
        )
        for line in (*_ways(decision), *_on_disk(decision)):
            click.echo(line)
        for piece in decision.spares:
            layers = f"layers {piece.first}-{piece.end - 1}" if piece.end > piece.first else "the output head"
            click.echo(f"spare: {layers} on {piece.node}/{piece.device}, {gib(total(piece))}")
    else:
        click.echo("it fits nowhere as it is")
    for note in decision.notes:
        click.echo(f"note: {note}")
    for help_line in decision.helps:
        click.echo(f"help: {help_line}")


def _print_slices(decision: "PlacementDecided") -> None:
    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import show, table

    rows = table("machine", "device", "layers", "weights", "cache", "other", "of free", "ms", "")
    for piece in decision.slices:
        layers = f"{piece.first}-{piece.end - 1}" if piece.end > piece.first else "none"
        numbers = (piece.weight_bytes, piece.kv_bytes, piece.other_bytes, piece.free_bytes)
        sizes = (gib(number) for number in numbers)
        rows.add_row(piece.node, piece.device, layers, *sizes, figure(piece.ms), _role(piece))
    show(rows)


def _ways(decision: "PlacementDecided") -> "Iterator[str]":
    """The way to each other machine, and whether its figures were measured or assumed."""
    from twd.coordinator.core.placement.values import MachineLink

    for node in dict.fromkeys(piece.node for piece in decision.slices if piece.node != decision.home):
        rtt_ms, carried = decision.links.get(node), decision.bandwidths.get(node)
        far = f"{rtt_ms:g} ms" if rtt_ms is not None else f"{MachineLink().rtt_s * 1000:g} ms (assumed)"
        wide = f"{carried / 1e6:.0f} MB/s" if carried else f"{MachineLink().bytes_s / 1e6:.0f} MB/s (assumed)"
        yield f"way: {decision.home} to {node}: {far}, {wide}"


def _on_disk(decision: "PlacementDecided") -> "Iterator[str]":
    """The experts that have no place in memory."""
    from twd.engine.host_memory.limits import gib

    for piece in decision.slices:
        if piece.disk_bytes:
            yield f"experts: {gib(piece.disk_bytes)} of {piece.node}'s are read from disk while it computes"


def _role(piece: "Slice") -> str:
    return "with the output head" if piece.head else ""
