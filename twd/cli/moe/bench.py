"""`twd moe bench`: how fast a mixture writes, with and without drafts, what was in memory and what was read."""

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from twd.cli.bench.command import prompts_of
from twd.cli.common.context import CliContext
from twd.cli.common.output import check_output
from twd.cli.moe.refusals import refused
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import figure
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.bench.client import BenchClient
    from twd.bench.mixture import MixtureReport, MixtureRun
    from twd.bench.mixture_process import HeldBench
    from twd.bench.prompts import BenchPrompt
    from twd.settings.model import ModelConfig
    from twd.wire.leases.base import StreamedExperts

FRESH_S: Final = 20.0
"""How long to wait for what a speculator tells now."""


@dataclass(frozen=True, slots=True)
class MoeBenchOptions:
    """What to ask, and whether to tell of each answer."""

    model: str
    prompts: "list[BenchPrompt]"
    max_tokens: int
    warmup: int
    live: bool

    def tell(self, line: str) -> None:
        """One line about the run so far."""
        if self.live:
            click.echo(line, err=True)


@click.command("bench")
@click.option("--target-url", default="", help="Another OpenAI-compatible server; without: what runs here.")
@click.option("--target-model", default="default", help="The model's name there, in the settings, or a GGUF file.")
@click.option("--prompts", type=click.Path(exists=True, dir_okay=False), help="A file with one prompt a line.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(2, 4096), help="Of each answer.")
@click.option("--warmup", default=2, show_default=True, type=click.IntRange(0, 100), help="Answers that do not count.")
@click.option("--json", "json_file", default="", metavar="FILE", help="Write all of it to this file, or to -.")
@click.option("--live/--no-live", default=None, help="Tell of each answer. [default: in a terminal]")
@click.option(
    "--memory", default=0, metavar="MIB", type=click.IntRange(0), help="Hold our engine in a cgroup with so much."
)
@click.pass_obj
def bench_command(
    ctx: CliContext,
    target_url: str,
    target_model: str,
    prompts: str | None,
    max_tokens: int,
    warmup: int,
    json_file: str,
    live: bool | None,
    memory: int,
) -> ExitCode:
    """Ask a mixture the same prompts without and with drafts: time to the first token, tokens a second, drafts that
    held, experts found in memory, MiB read, and what the plan predicts.

    Without --target-url, a model that runs here is asked. With --memory, or a GGUF file as --target-model, a process of
    its own holds the model. Exit code 10 if drafts changed a text.
    """
    if target_url and memory:
        raise click.UsageError("--memory holds our own engine; it does not go with --target-url")
    if json_file not in ("", "-"):
        check_output(Path(json_file))
    shown = sys.stderr.isatty() if live is None else live
    options = MoeBenchOptions(target_model, prompts_of(prompts), max_tokens, warmup, shown)
    with refused():
        if target_url:
            report = asyncio.run(_ask_server(target_url.rstrip("/"), options))
        elif memory or target_model.endswith(".gguf"):
            report = _hold(ctx, options, memory)
        else:
            report = asyncio.run(_ask_bus(ctx, options))
    if json_file:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
        click.echo(text) if json_file == "-" else Path(json_file).write_text(text + "\n", "utf-8")
    if json_file != "-":
        _show(report)
    return ExitCode.DIFFERENT if report.equal is False else ExitCode.OK


async def _ask_server(url: str, options: MoeBenchOptions) -> "MixtureReport":
    from twd.bench.mixture import MixtureReport, run_of_replies
    from twd.bench.product.http_client import Question, Server, ask_all

    questions = [
        Question(prompt.kind, [{"role": turn.role, "content": str(turn.content)} for turn in prompt.messages])
        for prompt in options.prompts
    ]
    server = Server(url, options.model)
    if options.warmup:
        await ask_all(server, (questions * options.warmup)[: options.warmup], options.max_tokens)
    replies = []
    for number, question in enumerate(questions, 1):
        replies += (await ask_all(server, [question], options.max_tokens))[0]
        options.tell(f"{number}/{len(questions)}: first token after {replies[-1].first_ms:.0f} ms")
    return MixtureReport(model=options.model, at=url, runs=[run_of_replies(replies)])


async def _ask_bus(ctx: CliContext, options: MoeBenchOptions) -> "MixtureReport":
    from twd.bench.client import BenchClient
    from twd.bench.mixture import AskedMixture, MixtureBench, MixtureReport, experts_mib, measure_mixture
    from twd.bench.session import find_speculator
    from twd.kit.clock import SystemClock
    from twd.kit.ids import Ids
    from twd.kit.service import ServiceContext
    from twd.wire.base import ModelId

    async with ctx.bus("admin") as bus:
        client = BenchClient(ServiceContext(bus=bus, node=ctx.node, clock=SystemClock(), ids=Ids()))
        await client.start()
        try:
            lease = await find_speculator(client, options.model)
            name = lease.model

            async def experts() -> "StreamedExperts | None":
                return await _fresh(client, name)

            served = AskedMixture(client, ModelId(name), experts)
            bench = MixtureBench(options.prompts, options.max_tokens, options.warmup)
            runs, equal = await measure_mixture(served, bench, options.tell)
            mib = experts_mib(await experts())
        finally:
            await client.stop("done")
    known = ctx.settings.models.get(name)
    predicted = _predicted(ctx, path_of(known.path), mib) if known is not None else 0.0
    return MixtureReport(
        model=name, at=f"on {lease.node}", runs=runs, equal=equal, experts_mib=mib, predicted_tok_s=predicted
    )


async def _fresh(client: "BenchClient", name: str) -> "StreamedExperts | None":
    """What the speculator has told after this call: leases are renewed now and then."""
    from twd.bench.session import facts_of, find_speculator

    asked_ms, until = client.clock.wall_ms(), time.monotonic() + FRESH_S
    while True:
        lease = await find_speculator(client, name)
        if lease.renewed_ms > asked_ms or time.monotonic() > until:
            return facts_of(lease).experts
        await asyncio.sleep(0.2)


def _hold(ctx: CliContext, options: MoeBenchOptions, memory: int) -> "MixtureReport":
    """Measure in a process of its own, in a cgroup if its memory is limited."""
    from twd.bench.memory_group import memory_group
    from twd.bench.mixture_process import HeldBench

    name, model = _model(ctx, options.model)
    held = HeldBench(
        name, model, str(ctx.home.path), options.prompts, options.max_tokens, options.warmup, memory_mib=memory
    )
    if memory:
        with memory_group(memory << 20) as procs:
            report = _run(msgspec.structs.replace(held, procs=str(procs)), options.live)
    else:
        report = _run(held, options.live)
    predicted = _predicted(ctx, path_of(model.path), report.experts_mib)
    return msgspec.structs.replace(report, predicted_tok_s=predicted)


def _model(ctx: CliContext, name: str) -> "tuple[str, ModelConfig]":
    from twd.settings.model import DEFAULT_NAMES, ModelConfig

    known = ctx.settings.models
    wanted = ctx.settings.default_model if name in DEFAULT_NAMES and name not in known else name
    if wanted in known:
        return wanted, known[wanted]
    if not name.endswith(".gguf"):
        raise CommandError(ExitCode.NOT_FOUND, f"there is no model {name!r} in the settings; name one, or a GGUF file")
    return path_of(name).stem, ModelConfig(path=str(path_of(name)), ctx_size=2048, parallel=1)


def _run(held: "HeldBench", live: bool) -> "MixtureReport":
    from twd.bench.mixture import MixtureReport

    command = [sys.executable, "-P", "-m", "twd.bench.mixture_process"]
    told = None if live else subprocess.PIPE
    done = subprocess.run(command, input=msgspec.json.encode(held), stdout=subprocess.PIPE, stderr=told, check=False)
    if done.returncode:
        lines = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        killed = "it was killed: too little memory" if done.returncode < 0 else f"exit code {done.returncode}"
        raise CommandError(ExitCode.UNHEALTHY, f"the model could not be measured: {lines[-1] if lines else killed}")
    return msgspec.json.decode(done.stdout, type=MixtureReport)


def _predicted(ctx: CliContext, path: Path, experts_mib: int) -> float:
    """Tokens a second without drafts, as `twd moe plan` would say with so much memory for experts; 0: all of it."""
    from twd.moe.devices import find_devices
    from twd.moe.model import is_mixture, read_mixture
    from twd.moe.placement import USABLE, place
    from twd.moe.summary import summarize

    if not path.exists() or not is_mixture(path):
        return 0.0
    facts = summarize(read_mixture(path))
    held = experts_mib << 20 or facts.expert
    devices = [
        replace(device, memory=int((facts.resident + held) / USABLE) + 1)
        for device in find_devices(ctx.home.cache, path)
        if device.host
    ]
    return place(facts, devices).tok_s


def _show(report: "MixtureReport") -> None:
    from twd.kit.terminal import show, table

    held = f", {report.experts_mib} MiB for experts" if report.experts_mib else ""
    click.echo(f"{report.model} {report.at}{held}")
    rows = table("", "answers", "first ms", "tok/s", "drafts held", "experts in memory", "MiB read a token")
    for run in report.runs:
        rows.add_row(*_cells(run))
    show(rows)
    if report.predicted_tok_s:
        measured = report.runs[0].tok_s
        beside = f", {measured / report.predicted_tok_s:.2f} of that measured" if measured else ""
        click.echo(f"predicted without drafts: {figure(report.predicted_tok_s)} tok/s{beside}")
    if report.equal is not None:
        click.echo("the same texts" if report.equal else "DRAFTS CHANGED A TEXT")


def _cells(run: "MixtureRun") -> list[str]:
    return [
        run.way,
        str(run.answers),
        f"{run.first_ms:.0f}",
        f"{run.tok_s:.1f}",
        "-" if run.acceptance is None else f"{run.acceptance:.0%}",
        "-" if run.hits is None else f"{run.hits:.0%}",
        "-" if run.read_mib is None else f"{run.read_mib:.1f}",
    ]
