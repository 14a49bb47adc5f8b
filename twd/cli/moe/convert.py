"""`twd moe defuse IN OUT` and `twd moe fuse IN OUT`: the same weights in the other layout."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.kit.progress import Share
    from twd.moe.convert import Direction

_force = click.option("--force", is_flag=True, help="Replace OUT if it is there.")
_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
_STEP = 0.1


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@_force
@_json
def defuse(source: str, target: str, force: bool, as_json: bool) -> ExitCode:
    """Write each expert of IN as tensors of its own to OUT: same bytes, same types. Shards become one file.

    llama.cpp does not load such a file; `twd moe fuse` makes the old one again.
    """
    return _convert("defuse", path_of(source), path_of(target), force, as_json)


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@_force
@_json
def fuse(source: str, target: str, force: bool, as_json: bool) -> ExitCode:
    """Write all experts of a layer in IN as one tensor to OUT, as llama.cpp wants them: same bytes, same types."""
    return _convert("fuse", path_of(source), path_of(target), force, as_json)


def _convert(direction: "Direction", source: Path, target: Path, force: bool, as_json: bool) -> ExitCode:
    from twd.cli.moe.refusals import refused
    from twd.engine.host_memory.limits import gib
    from twd.moe.convert import convert

    began = time.perf_counter()
    with refused():
        done = convert(source, target, direction, replace=force, progress=_teller(as_json))
    seconds = time.perf_counter() - began
    if as_json:
        told = {name: getattr(done, name) for name in ("size_bytes", "tensors", "changed", "experts")}
        click.echo(msgspec.json.encode({"path": str(done.path), **told, "seconds": round(seconds, 3)}))
    else:
        what = "split" if direction == "defuse" else "joined"
        click.echo(f"{done.path}: {gib(done.size_bytes)}, {count(done.tensors, 'tensor')}; {done.changed} were {what}")
        click.echo(f"{seconds:.1f} s, {done.size_bytes / max(seconds, 1e-6) / 1e6:.0f} MB/s")
    return ExitCode.OK


def _teller(quiet: bool) -> "Share":
    told = [0.0]

    def tell(share: float) -> None:
        if not quiet and sys.stderr.isatty() and share >= told[0] + _STEP:
            told[0] = share
            click.echo(f"{share:.0%}", err=True)

    return tell
