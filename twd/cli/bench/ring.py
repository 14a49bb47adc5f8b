"""`twd bench --ring`: a ring of local stages with slow links, measured in one run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twd.cli.bench.options import BenchOptions
from twd.cli.common.context import CliContext
from twd.kit.exit_codes import ExitCode
from twd.kit.terminal import console
from twd.process.home import StateFolder

if TYPE_CHECKING:
    from rich.table import Table

    from twd.bench.ring.run import DistanceFigures, DraftedFigures, RingFigures


def show_ring(ctx: CliContext, wanted: BenchOptions) -> ExitCode:
    """Measure and show."""
    from twd.bench.ring.run import RingBench, RingBenchRun
    from twd.engine.demo_model import demo_model

    if wanted.max_tokens < 2:
        raise click.UsageError("--ring times what comes after a text's first token: give --max-tokens 2 or more")
    home = StateFolder(ctx.settings.home_dir)
    plan = RingBench(
        source=Path(wanted.file) if wanted.file else demo_model(home.cache),
        folder=home.cache / "slices",
        stages=wanted.ring,
        rtts=_numbers(wanted.link_rtt),
        tokens=wanted.max_tokens,
        draft=Path(wanted.draft) if wanted.draft else None,
        draft_away=wanted.draft_away,
        plain_links=wanted.trusted_lan,
        beside_rpc=wanted.beside_rpc,
    )
    if wanted.plain_only:
        plan = replace(plan, wrong=(), sessions=(1,), draft=None)
    figures = RingBenchRun(plan, _quiet if wanted.as_json else click.echo).run()
    if wanted.plot:
        Path(wanted.plot).write_text(_picture(figures), "utf-8")
    if wanted.as_json:
        click.echo(json.dumps(figures.document))
    else:
        _show(figures)
    return ExitCode.OK if figures.equal else ExitCode.DIFFERENT


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{text!r} is no list of milliseconds; write for example 0,10,20") from None
    if not all(0 <= number <= 1000 for number in numbers):
        raise click.UsageError("round trip times go from 0 to 1000 ms")
    return numbers


def _quiet(_: str) -> None:
    """JSON alone goes to stdout."""


def _table(figures: "RingFigures") -> "Table":
    """A row for each distance and kind of guesses."""
    from rich.table import Table

    plan = figures.plan
    table = Table(title=f"{plan.source.name} on a ring of {plan.stages} stages: tokens per second")
    for title in ("RTT ms", "guesses", "plain", "one in flight", "several", "to one", "to plain", "waste"):
        table.add_column(title, justify="left" if title == "guesses" else "right")
    for at in figures.distances:
        rows = [_guessed(at, one) for one in at.drafted] or [("none", f"{at.plain:.1f}")]
        for row in rows:
            table.add_row(f"{at.rtt_ms:g}", *row)
    return table


def _show(figures: "RingFigures") -> None:
    plan, out = figures.plan, console()
    out.print(_table(figures))
    for at in figures.distances:
        rates = ", ".join(f"{count}: {rate:.0f}" for count, rate in at.together.items())
        out.print(f"RTT {at.rtt_ms:g} ms, sessions at once without guesses: {rates} tok/s")
        if at.rpc:
            rpc = f"plain {at.plain:.1f} tok/s, llama.cpp's RPC {at.rpc:.1f} ({at.plain / at.rpc:.2f}x)"
            out.print(f"RTT {at.rtt_ms:g} ms, {plan.stages} workers: {rpc}")
    out.print("all texts are equal" if figures.equal else "[bold red]texts differ[/]")


def _guessed(at: "DistanceFigures", one: "DraftedFigures") -> tuple[str, ...]:
    return (
        one.name,
        f"{at.plain:.1f}",
        f"{one.one:.1f} ({one.one_window or 'own choice'})",
        f"{one.several:.1f}",
        f"{one.several / one.one:.2f}x",
        f"{one.several / at.plain:.1f}x",
        f"{one.waste:.2f}",
    )


def _picture(figures: "RingFigures") -> str:
    from twd.bench.plot import lines

    names = [one.name for one in figures.distances[0].drafted]
    series = [("plain", [at.plain for at in figures.distances])]
    if figures.plan.beside_rpc:
        series.append(("RPC, plain", [at.rpc for at in figures.distances]))
    for number, name in enumerate(names):
        series.append((f"{name}, one", [at.drafted[number].one for at in figures.distances]))
        series.append((f"{name}, several", [at.drafted[number].several for at in figures.distances]))
    title = f"{figures.plan.source.name}, {figures.plan.stages} stages: tokens per second by round trip time"
    return lines(title, [at.rtt_ms for at in figures.distances], series[:6], "ms", "tok/s")
