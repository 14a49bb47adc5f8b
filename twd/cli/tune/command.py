"""`twd tune`: looks at this machine and a model, and proposes settings that fit."""

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twd.cli.common.context import CliContext
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count

if TYPE_CHECKING:
    from twd.cli.tune.proposal import MachineFacts, ModelNeed, TuneProposal

SWAPPINESS: Final = Path("/proc/sys/vm/swappiness")
MEASURE_S: Final = 600.0


@click.command()
@click.argument("model", required=False, default="")
@click.option("-m", "--model", "named", default="", help="The same as MODEL.")
@click.option("--measure", is_flag=True, help="Load the model, and time it with different numbers of threads.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def tune(ctx: CliContext, model: str, named: str, measure: bool, as_json: bool) -> ExitCode:
    """Propose threads, sessions, context, cache formats, reclaim and swap for this machine, and for a model on it.

    Exit code 3: the model does not run well with the settings that it has.
    """
    from twd.cli.tune.proposal import expected_token_s, proposals

    need = _need(ctx, model or named)
    machine = look(need, measure)
    found = proposals(machine, need)
    if as_json:
        facts = {key: value for key, value in asdict(machine).items() if key != "token_ms"}
        document = {"machine": {**facts, "token_ms": dict(machine.token_ms)}, "model": need.name if need else ""}
        click.echo(json.dumps({**document, "proposals": [asdict(one) for one in found]}))
    else:
        _show(machine, need, found, expected_token_s(machine, need) if need else 0.0)
    return ExitCode.UNHEALTHY if any(one.urgent for one in found) else ExitCode.OK


def _need(ctx: CliContext, name: str) -> "ModelNeed | None":
    from twd.cli.common.api_address import running_settings

    settings = running_settings(ctx)
    name = name or settings.default_model
    if not name:
        return None
    from twd.cli.models.command import file_of
    from twd.cli.tune.proposal import ModelNeed
    from twd.gguf_tools.inspect import inspect
    from twd.moe.advice import advice_for

    key, model = file_of(settings, ctx.node, name)
    path = Path(model.path)
    return ModelNeed(key, inspect(path), model, ctx.settings.ram_reclaim, partial(advice_for, path))


def look(need: "ModelNeed | None", measure: bool) -> "MachineFacts":
    """The facts of this machine now."""
    from twd.agent.probes.cpu import cpu_facts, memory_facts
    from twd.cli.tune.proposal import MachineFacts
    from twd.engine.measuring.memory_speed import measure_bandwidth

    cpu, memory = cpu_facts(), memory_facts()
    return MachineFacts(
        cores=cpu.cores,
        threads=cpu.threads,
        total=memory.total,
        available=memory.available,
        swap_total=memory.swap_total,
        swap_free=memory.swap_free,
        swappiness=_number(SWAPPINESS, -1),
        bandwidth=measure_bandwidth(),
        device_bytes=_device_bytes(),
        token_ms=_times(need.info.path, cpu.cores, cpu.threads) if need is not None and measure else {},
    )


def _number(path: Path, fallback: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # another system, or one that does not tell
        return fallback


def _device_bytes() -> int:
    from twd.agent.probes.gpu import engine_facts

    notes: list[str] = []
    _, gpus = asyncio.run(engine_facts(notes, {}))
    for note in notes:
        click.echo(f"{note}; `twd doctor` tells more", err=True)
    return sum(gpu.free for gpu in gpus)


def _times(path: Path, cores: int, threads: int) -> dict[int, float]:
    counts = sorted({1, max(1, cores // 2), cores, threads})
    argv = [sys.executable, "-P", "-m", "twd.engine.measuring.time_threads", str(path), *map(str, counts)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=MEASURE_S, check=False)
    except subprocess.TimeoutExpired:
        click.echo(f"the model could not be timed: that takes more than {MEASURE_S:g} s here", err=True)
        return {}
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        click.echo(f"the model could not be timed: {words[-1]}", err=True)
        return {}
    return {int(count): ms for count, ms in json.loads(done.stdout.splitlines()[-1]).items()}


def _show(machine: "MachineFacts", need: "ModelNeed | None", found: "list[TuneProposal]", rate: float) -> None:
    _show_machine(machine)
    if need is not None:
        _show_need(need, rate)
    if machine.token_ms:
        times = ", ".join(f"{count}: {ms:.1f} ms" for count, ms in sorted(machine.token_ms.items()))
        click.echo(f"measured for one token, by threads: {times}")
    if not found:
        click.echo("nothing to change")
    for one in found:
        click.echo(f"{'!' if one.urgent else '-'} {one.why}")
        if one.key:
            click.echo(f"    {one.key}: {one.value}")
        if one.command:
            click.echo(f"    $ {one.command}")


def _show_machine(machine: "MachineFacts") -> None:
    from twd.engine.host_memory.limits import gib

    processor = f"{count(machine.cores, 'core')}, {count(machine.threads, 'thread')}"
    click.echo(f"{processor}; one of them reads {machine.bandwidth / 1e9:.1f} GB/s")
    swap = f"swap {gib(machine.swap_free)} of {gib(machine.swap_total)} free"
    click.echo(f"memory {gib(machine.available)} of {gib(machine.total)} free, {swap}")
    if machine.device_bytes:
        click.echo(f"devices with {gib(machine.device_bytes)} free")


def _show_need(need: "ModelNeed", rate: float) -> None:
    from twd.engine.host_memory.limits import gib

    kv = gib(need.kv_bytes(need.ctx_size, need.model.parallel))
    sessions = f"{count(need.model.parallel, 'session')} of {need.ctx_size} tokens: {kv}"
    click.echo(f"{need.name}: {need.info.quantization}, {gib(need.info.weight_bytes)}; {sessions}")
    click.echo(f"one thread's share of the memory allows about {rate:.1f} tok/s without drafts")
