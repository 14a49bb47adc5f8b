"""`twd bench --simulate`: what a drafter of given speed and quality would bring, before one has it."""

import json
from pathlib import Path

import click

from twd.bench.analytic import SpeculationSetting, best_continuous, best_round, plain_rate
from twd.bench.plot import lines
from twd.bench.simulate import Simulation
from twd.cli.bench.options import BenchOptions
from twd.kit.exit_codes import ExitCode

_SEEDS = range(1, 5)
_ACCEPTANCE = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def show_simulation(wanted: BenchOptions) -> ExitCode:
    """Print the gain for the given numbers, and around them."""
    target_ms, row_ms, token_ms, rtt_ms = wanted.target_ms, wanted.row_ms, wanted.token_ms, wanted.rtt_ms

    def setting(acceptance: float) -> SpeculationSetting:
        return SpeculationSetting(lambda rows: target_ms + (rows - 1) * row_ms, token_ms, acceptance, rtt_ms)

    rows = [_row(setting(one), wanted.beside) for one in sorted({*_ACCEPTANCE, wanted.accept})]
    if wanted.plot:
        Path(wanted.plot).write_text(_picture(rows), "utf-8")
    if wanted.as_json:
        click.echo(json.dumps({"target_ms": target_ms, "row_ms": row_ms, "token_ms": token_ms, "rows": rows}))
        return ExitCode.OK
    click.echo(f"target {target_ms:g} ms + {row_ms:g} ms a row, drafter {token_ms:g} ms a token, {rtt_ms:g} ms away")
    click.echo("accepted   in turns (window)   formula   played with twd's own deciders")
    for row in rows:
        mark = " <" if row["accept"] == wanted.accept else ""
        turns = f"{row['in_turns']:.2f}x ({row['window']:.0f})"
        click.echo(f"{row['accept']:8.2f}   {turns:>17}   {row['formula']:6.2f}x   {row['played']:6.2f}x{mark}")
    return ExitCode.OK


def _row(setting: SpeculationSetting, beside: bool) -> dict[str, float]:
    plain = plain_rate(setting)
    window, turns = best_round(setting)
    played = sum(Simulation(setting, seed=seed, beside=beside, tokens=256).run() for seed in _SEEDS) / len(_SEEDS)
    return {
        "accept": setting.acceptance,
        "window": window,
        "in_turns": round(turns / plain, 3),
        "formula": round((turns if beside else best_continuous(setting)) / plain, 3),
        "played": round(played / plain, 3),
    }


def _picture(rows: list[dict[str, float]]) -> str:
    return lines(
        "Gain over plain decoding by acceptance",
        [row["accept"] for row in rows],
        [(name, [row[name] for row in rows]) for name in ("in_turns", "formula", "played")],
        "accepted",
        "x",
    )
