"""`twd moe plan FILE`: which device holds which experts, what it costs a token, and the same for llama-server."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.cli.moe.refusals import refused
from twd.cli.moe.summary import model_path
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import figure

if TYPE_CHECKING:
    from twd.moe.placement import DeviceScore, MixturePlan, Strategy
    from twd.moe.profile import ExpertProfile
    from twd.moe.summary import MixtureSummary


@click.command("plan")
@click.argument("file")
@click.option(
    "--strategy",
    type=click.Choice(["balanced", "profile-guided"]),
    help="profile-guided: busy experts first, as a profile tells. [default: as the settings say, else balanced]",
)
@click.option(
    "--hot-profile", default="", metavar="FILE", help="The profile; else the one that is kept for this model."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--emit-ot", is_flag=True, help="Print arguments for llama-server, and nothing else.")
@click.option("--refresh", is_flag=True, help="Measure the devices again; otherwise that is done once a day.")
@click.pass_obj
def plan_command(
    ctx: CliContext,
    file: str,
    strategy: "Strategy | None",
    hot_profile: str,
    as_json: bool,
    emit_ot: bool,
    refresh: bool,
) -> ExitCode:
    """Place a mixture on this machine's devices and on the RPC workers of the settings; starts nothing.

    FILE is a GGUF file or a model in the settings. Predictions are estimates from measured speeds. Exit code 3 when not
    even the dense weights fit.
    """
    with refused():
        path = model_path(ctx, file)
        facts, plan, devices = placed(ctx, file, path, strategy, hot_profile, refresh=refresh)
    if emit_ot:
        _emit(plan, devices)
    elif as_json:
        click.echo(msgspec.json.encode(placement_document(path, facts, plan, devices)))
    else:
        show_placement(facts, plan)
    return ExitCode.OK


def placed(
    ctx: CliContext,
    file: str,
    path: Path,
    strategy: "Strategy | None",
    hot_profile: str,
    *,
    refresh: bool = False,
    disk: Path | None = None,
) -> "tuple[MixtureSummary, MixturePlan, list[DeviceScore]]":
    """A mixture on the devices that are there. `disk`: the file that is read to measure the disk, if not the model."""
    from twd.moe.devices import find_devices
    from twd.moe.model import read_mixture
    from twd.moe.placement import place
    from twd.moe.summary import summarize

    facts = summarize(read_mixture(path))
    chosen = _strategy(ctx, file, strategy, hot_profile)
    profile = _profile(ctx, path, file, hot_profile) if chosen == "profile-guided" else None
    devices = find_devices(ctx.home.cache, disk or path, ctx.settings.pool.workers, refresh=refresh)
    plan = place(facts, devices, chosen, profile)
    if plan.missing:
        raise CommandError(ExitCode.UNHEALTHY, _too_small(facts, plan, devices))
    return facts, plan, devices


def _strategy(ctx: CliContext, file: str, asked: "Strategy | None", hot_profile: str) -> "Strategy":
    if asked or hot_profile:
        return asked or "profile-guided"
    known = ctx.settings.models.get(file)
    return "profile-guided" if known is not None and known.moe_placement == "profile-guided" else "balanced"


def _profile(ctx: CliContext, path: Path, file: str, named: str) -> "ExpertProfile":
    from twd.moe.profile_files import profile_for, profile_path

    known = ctx.settings.models.get(file)
    where = named or (known.moe_hot_profile if known is not None else "")
    source = profile_path(where, ctx.home.path, path)
    if source is None:
        text = f"there is no profile of this model yet; `twd moe profile -m {file}` makes one"
        raise CommandError(ExitCode.NOT_FOUND, text)
    return profile_for(source, path)


def _too_small(facts: "MixtureSummary", plan: "MixturePlan", devices: "list[DeviceScore]") -> str:
    from twd.engine.host_memory.limits import gib

    free = ", ".join(f"{device.name} {gib(device.memory)}" for device in devices)
    return (
        f"the dense weights take {gib(facts.resident)}, and {gib(plan.missing)} of that fit nowhere (free: {free}); "
        f"free some memory, pool machines, or take a smaller file"
    )


def _emit(plan: "MixturePlan", devices: "list[DeviceScore]") -> None:
    from twd.moe.server_arguments import server_arguments, shell_line

    click.echo(shell_line(server_arguments(plan, devices)))


def placement_document(
    path: Path, facts: "MixtureSummary", plan: "MixturePlan", devices: "list[DeviceScore]"
) -> dict[str, Any]:
    """A placement for programs."""
    from twd.moe.server_arguments import server_arguments

    shares = [
        {
            "device": share.device.name,
            "memory_bytes": share.device.memory,
            "bytes_per_s": share.device.speed,
            "disk_bytes_per_s": share.device.disk,
            "rtt_ms": share.device.rtt_s * 1000,
            "dense_layers": list(share.dense_layers),
            "expert_layers": list(share.expert_layers),
            "dense_bytes": share.dense_bytes,
            "expert_bytes": share.expert_bytes,
            "disk_bytes": share.disk_bytes,
            "hits": share.hits,
            "ms": share.ms,
            "disk_ms": share.disk_ms,
        }
        for share in plan.shares
    ]
    return {
        "path": str(path),
        "strategy": plan.strategy,
        "layout": facts.layout,
        "shares": shares,
        "token_ms": plan.token_ms,
        "tok_s": plan.tok_s,
        "token_reads_bytes": facts.token_reads,
        "more_memory": [{"memory_bytes": memory, "tok_s": rate} for memory, rate in plan.more],
        "arguments": server_arguments(plan, devices),
    }


def show_placement(facts: "MixtureSummary", plan: "MixturePlan") -> None:
    """A placement for people."""
    from twd.engine.host_memory.limits import gib

    click.echo(f"{facts.name}: {facts.experts} experts, {facts.used} used; {plan.strategy}")
    _show_shares(facts, plan)
    click.echo(f"about {figure(plan.token_ms)} ms a token, {figure(plan.tok_s)} tokens/s without drafts; an estimate")
    for memory, rate in plan.more:
        click.echo(f"with {gib(memory)} free on this machine: about {figure(rate)} tokens/s")
    if facts.layout != "fused":
        click.echo("llama.cpp does not load single experts: `twd moe fuse IN OUT` first")


def _show_shares(facts: "MixtureSummary", plan: "MixturePlan") -> None:
    """What each device holds, and what is on disk."""
    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import show, table
    from twd.moe.placement import layer_ranges

    rows = table("device", "tier", "dense layers", "experts of layers", "bytes", "choices", "ms")
    for share in plan.shares:
        tier = "memory" if share.device.host else "worker" if "[" in share.device.name else "card"
        size = gib(share.dense_bytes + share.expert_bytes - share.disk_bytes)
        layers = layer_ranges(share.dense_layers), layer_ranges(share.expert_layers)
        rows.add_row(share.device.name, tier, *layers, size, f"{share.hits:.0%}", figure(share.ms))
        if share.disk_bytes:
            missed = share.expert_bytes / max(facts.expert, 1) - share.hits
            rows.add_row("", "disk", "", "", gib(share.disk_bytes), f"{missed:.0%}", figure(share.disk_ms))
    show(rows)
