"""`twd bench`: what drafts bring on this system, measured, and what others would bring, played."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from twd.cli.bench.options import BenchOptions
from twd.cli.common.context import CliContext
from twd.cli.common.numbers import NumberRange
from twd.cli.common.options_as import options_as
from twd.cli.common.output import check_output
from twd.kit.exit_codes import ExitCode
from twd.kit.terminal import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from twd.bench.prompts import BenchPrompt
    from twd.bench.report import PlainDraftedPair, ReportLine
    from twd.bench.session import BenchPlan, BenchResult

_MEASURED, _RING, _PLAYED = ("",), ("ring",), ("simulate",)
_ANYWHERE = ("as_json", "plot", "ring", "simulate")
WAYS: Final = {
    "max_tokens": ("", "ring"),
    **dict.fromkeys(("link_rtt", "file", "draft", "draft_away", "trusted_lan", "beside_rpc", "plain_only"), _RING),
    **dict.fromkeys(("target_ms", "row_ms", "token_ms", "accept", "rtt_ms", "beside"), _PLAYED),
}
"""Options that do not belong to the measurement of what runs (""), and where they do."""


@click.command()
@click.option("-m", "--model", default="default", help="Which model to measure.")
@click.option("--prompts", type=click.Path(exists=True, dir_okay=False), help="A file with one prompt a line.")
@click.option("--kind", "kinds", multiple=True, help="Only prompts of this kind; may be given again.")
@click.option(
    "--max-tokens", default=96, show_default=True, type=click.IntRange(1, 4096), help="The length of each answer."
)
@click.option("--window", default=0, type=click.IntRange(0, 96), help="Drafts a window; 0: as many as pay.")
@click.option("--temperature", default=0.0, type=NumberRange(0.0, 5.0), help="0 always takes the likeliest token.")
@click.option("--rounds", default=1, type=click.IntRange(1, 100), help="How often to ask each prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), help="Draw the speeds into this SVG file.")
@click.option("--ring", default=0, type=click.IntRange(0, 16), help="Measure a ring of so many local stages instead.")
@click.option("--link-rtt", default="0,2,10,20", help="Ring: round trip times of its links in ms, one run for each.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False), help="Ring: a model file; else the demo model.")
@click.option("--draft", type=click.Path(exists=True, dir_okay=False), help="Ring: a draft model, too.")
@click.option(
    "--draft-away", is_flag=True, help="Ring: play the draft model at its pace, as on another machine like this."
)
@click.option("--trusted-lan", is_flag=True, help="Ring: links without encryption.")
@click.option("--beside-rpc", is_flag=True, help="Ring: also as many RPC workers of llama.cpp, at the same distances.")
@click.option("--plain-only", is_flag=True, help="Ring: without guesses, and one session only.")
@click.option("--simulate", is_flag=True, help="Play given numbers instead of measuring.")
@click.option(
    "--target-ms", default=40.0, type=NumberRange(0.01, 60_000), help="Simulate: the target's time for one token."
)
@click.option(
    "--row-ms", default=1.0, type=NumberRange(0, 60_000), help="Simulate: what one more token in a window costs."
)
@click.option(
    "--token-ms", default=5.0, type=NumberRange(0.01, 60_000), help="Simulate: the drafter's time for one token."
)
@click.option("--accept", default=0.8, type=NumberRange(0.0, 0.999), help="Simulate: chance of a right guess.")
@click.option("--rtt-ms", default=0.5, type=NumberRange(0, 60_000), help="Simulate: time to the drafter and back.")
@click.option("--beside", is_flag=True, help="Simulate: the drafter shares the target's cores.")
@click.pass_obj
@options_as(BenchOptions)
def bench(ctx: CliContext, asked: BenchOptions) -> ExitCode:
    """Answer the same prompts without drafts and with them, in one run, and compare speed and text.

    Exit code 0: all texts are equal; 10: some differ (on a device that is not exact).
    """
    _check_options("simulate" if asked.simulate else "ring" if asked.ring else "")
    if asked.plot:
        check_output(Path(asked.plot))
    if asked.simulate:
        from twd.cli.bench.simulate import show_simulation

        return show_simulation(asked)
    if asked.ring:
        from twd.cli.bench.ring import show_ring

        return show_ring(ctx, asked)
    return _bench_running(ctx, asked)


def _bench_running(ctx: CliContext, asked: BenchOptions) -> ExitCode:
    """Measure the system that runs."""
    result = asyncio.run(_measure(ctx, asked.model, _plan(asked), quiet=asked.as_json))
    if asked.as_json:
        click.echo(json.dumps(result.document))
    else:
        _show(result)
    if asked.plot:
        Path(asked.plot).write_text(_picture(result), "utf-8")
    return ExitCode.OK if all(pair.equal for pair in result.pairs) else ExitCode.DIFFERENT


def _plan(asked: BenchOptions) -> "BenchPlan":
    from twd.bench.session import BenchPlan
    from twd.wire.job import Sampling

    sampling = Sampling(temperature=asked.temperature, seed=20_261 if asked.temperature else None)
    return BenchPlan(prompts_of(asked.prompts, asked.kinds), asked.max_tokens, asked.window, sampling, asked.rounds)


def _check_options(way: str) -> None:
    """No option is left aside in silence: somebody would take the figures for those of what was asked for."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        ways = WAYS.get(name, _MEASURED)
        if name not in _ANYWHERE and way not in ways:
            text = f"does not go with --{way}" if "" in ways else f"goes with --{ways[0]} only"
            raise click.UsageError(f"{parameter.opts[-1]} {text}")


def prompts_of(file: str | None, kinds: tuple[str, ...] = ()) -> "list[BenchPrompt]":
    """The prompts of a file, one a line; without one, our own, of these kinds if any are named."""
    from twd.bench.prompts import KINDS, PROMPTS, BenchPrompt
    from twd.wire.job import ChatMessage

    if file is not None:
        try:
            lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            raise click.UsageError(f"{file} cannot be read as UTF-8; write one prompt on each line") from None
        if not lines:
            raise click.UsageError(f"{file} holds no prompt; write one on each line")
        return [BenchPrompt("file", (ChatMessage(role="user", content=line),)) for line in lines]
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise click.UsageError(f"there is no kind {sorted(unknown)[0]!r}; there are: {', '.join(KINDS)}")
    return [prompt for prompt in PROMPTS if not kinds or prompt.kind in kinds]


async def _measure(ctx: CliContext, model: str, plan: "BenchPlan", quiet: bool) -> "BenchResult":
    from twd.bench.client import BenchClient
    from twd.bench.session import find_speculator, run_bench
    from twd.kit.clock import SystemClock
    from twd.kit.ids import Ids
    from twd.kit.service import ServiceContext

    async with ctx.bus("admin") as bus:
        client = BenchClient(ServiceContext(bus=bus, node=ctx.node, clock=SystemClock(), ids=Ids()))
        await client.start()
        try:
            lease = await find_speculator(client, model)
            return await run_bench(client, lease, plan, _quiet if quiet else _tell)
        finally:
            await client.stop("done")


def _quiet(number: int, total: int, pair: "PlainDraftedPair") -> None:
    """JSON alone goes to stdout."""


def _tell(number: int, total: int, pair: "PlainDraftedPair") -> None:
    same = "same text" if pair.equal else "TEXT DIFFERS"
    click.echo(
        f"{number:3}/{total} {pair.kind:<11} {pair.plain.rate:7.1f} -> {pair.drafted.rate:7.1f} tok/s "
        f"x{pair.ratio:.2f}  {same}"
    )


def _show(result: "BenchResult") -> None:
    from twd.bench.report import by_drafter, by_position, summarize

    out = console()
    out.print(_table(result))
    out.print("a pass of n tokens: " + ", ".join(f"{point.width}: {point.ms:.1f} ms" for point in result.cost))
    places = [f"{taken / checked:.2f}" for checked, taken in by_position(result.pairs) if checked]
    out.print("held by place in the window: " + (" ".join(places) or "no guesses were checked"))
    for name, (checked, taken) in by_drafter(result.pairs).items():
        out.print(f"{name}: {taken} of {checked} checked guesses held")
    whole = summarize(result.pairs)[-1].ratio
    for one in result.ceilings:
        out.print(
            f"{one.drafter}: {one.token_ms:.1f} ms a guess, {one.acceptance:.0%} accepted: these costs allow "
            f"{one.best:.2f}x by this drafter alone; reached {one.reached(whole):.2f} of it"
        )


def _table(result: "BenchResult") -> "Table":
    """A row for each kind of prompt."""
    from rich.table import Table

    from twd.bench.report import summarize

    table = Table(title=f"{result.model} ({result.facts.file}): plain against drafted, tokens per second")
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title == "kind" else "right")
    for line in summarize(result.pairs):
        table.add_row(*(cell(line) for cell in _COLUMNS.values()))
    return table


_COLUMNS: "Final[dict[str, Callable[[ReportLine], str]]]" = {
    "kind": lambda line: line.kind,
    "plain": lambda line: f"{line.plain_rate:.1f}",
    "drafted": lambda line: f"{line.drafted_rate:.1f}",
    "ratio": lambda line: f"{line.ratio:.2f}x",
    "first ms": lambda line: f"{line.first_ms:.0f}",
    "gap p95 ms": lambda line: f"{line.gap_p95_ms:.0f}",
    "tok/pass": lambda line: f"{line.tokens_per_pass:.2f}",
    "accepted": lambda line: f"{line.acceptance:.0%}",
    "equal": lambda line: f"{line.equal}/{line.answers}",
}


def _picture(result: "BenchResult") -> str:
    from twd.bench.plot import bars
    from twd.bench.report import summarize

    lines = summarize(result.pairs)
    return bars(
        f"{result.model}: tokens per second",
        [line.kind for line in lines],
        [("plain", [line.plain_rate for line in lines]), ("drafted", [line.drafted_rate for line in lines])],
        "tok/s",
    )
