"""`twd inspect`: what a model is, from its header alone, whether its file is here or on a hub."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.cli.common.local_stores import local_stores
from twd.cli.hub.holders import holders_of
from twd.cli.hub.show_report import show_report
from twd.cli.moe.summary import model_path
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.models.remote_file import RemoteFile
    from twd.models.report import ModelReport
    from twd.moe.placement import Strategy


class Inspected(NamedTuple):
    """A model whose header can be read here; its weights, too, unless it is on a hub."""

    path: Path
    origin: str
    remote: "tuple[RemoteFile, ...]" = ()
    fetched_bytes: int = 0


@click.command("inspect")
@click.argument("file", metavar="FILE|SPEC")
@click.option("--plan", "with_plan", is_flag=True, help="Where its layers would go, as `twd plan` shows it.")
@click.option(
    "--moe-strategy",
    type=click.Choice(["balanced", "profile-guided"]),
    help="Also where the experts of a mixture would go, as `twd moe plan` shows it.",
)
@click.option(
    "--hot-profile", default="", metavar="FILE", help="The profile for that; else the one kept for this file."
)
@click.option("--revision", default="", help="Of a SPEC: branch, tag or commit.  [default: main]")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, with all tensors and the chat template.")
@click.pass_context
def inspect_command(
    click_context: click.Context,
    file: str,
    with_plan: bool,
    moe_strategy: "Strategy | None",
    hot_profile: str,
    revision: str,
    as_json: bool,
) -> ExitCode:
    """Facts of a model: a GGUF file, a model in the settings, or a SPEC as `twd pull` takes it.

    Of a SPEC only the header is fetched. Weights are never read. Exit code 3 when a plan finds no room.
    """
    ctx: CliContext = click_context.obj
    with _inspected(ctx, file, revision) as found:
        report = _report(found.path)
        told: dict[str, Any] = {**_origin(found), **msgspec.to_builtins(report)}
        told["who_has_it"] = msgspec.to_builtins(holders_of(ctx, found.path, found.remote))
        if not as_json:
            show_report(report, told)
        code = ExitCode.OK
        if with_plan:
            code = _plan(click_context, found.path, told, as_json)
        if moe_strategy or hot_profile:
            _place_experts(ctx, file, found, moe_strategy, hot_profile, told, as_json)
    if as_json:
        click.echo(msgspec.json.encode(told).decode())
    return code


@contextmanager
def _inspected(ctx: CliContext, name: str, revision: str) -> Iterator[Inspected]:
    path = model_path(ctx, name)
    if path.exists() and not revision:
        yield Inspected(path, str(path))
        return
    with TemporaryDirectory(prefix="twd-inspect-") as folder:
        yield asyncio.run(_fetched(ctx, name, revision, Path(folder)))


async def _fetched(ctx: CliContext, name: str, revision: str, folder: Path) -> Inspected:
    from twd.models.environment import read_hub_environment
    from twd.models.hub import found_on_hub
    from twd.models.remote_header import fetch_headers
    from twd.models.spec import BadSpec, parse_spec

    environment = read_hub_environment(os.environ, Path.home())
    try:
        spec = parse_spec(name, revision, environment.hosts)
    except BadSpec as error:
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {name[:200]!r} here; {error}") from None
    async with found_on_hub(spec, environment) as found:
        _link_copies(ctx, found.files, folder)
        path, fetched = await fetch_headers(found.client, found.files, folder)
        return Inspected(path, found.files[0].origin, tuple(found.files), fetched)


def _link_copies(ctx: CliContext, files: "list[RemoteFile]", folder: Path) -> None:
    """What another program of this machine has is read there, and not fetched."""
    from twd.models.stores import whole_copies

    for file in files:
        copy = next((one for one in whole_copies(local_stores(ctx), file.sha256, file.size) if one.known), None)
        if copy is not None:
            (folder / file.name).symlink_to(copy.path)


def _origin(found: Inspected) -> dict[str, Any]:
    if not found.remote:
        return {"path": found.origin}
    files = [{"name": one.name, "size_bytes": one.size, "sha256": one.sha256} for one in found.remote]
    return {"origin": found.origin, "hub_files": files, "fetched_bytes": found.fetched_bytes}


def _report(path: Path) -> "ModelReport":
    from twd.gguf_tools.header import read_header
    from twd.gguf_tools.inspect import inspect
    from twd.models.report import report_of

    info = inspect(path)
    return report_of(info, [read_header(shard) for shard in info.shards])


def _plan(click_context: click.Context, path: Path, told: dict[str, Any], as_json: bool) -> ExitCode:
    """What `twd plan` says of it; as JSON it becomes a part of ours."""
    import contextlib
    import io

    from twd.cli.plan.command import plan

    said = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(said)) if as_json else contextlib.nullcontext():
        code: ExitCode = click_context.invoke(plan, model=str(path), ctx=0, sessions=0, as_json=as_json)
        if as_json:
            told["plan"] = msgspec.json.decode(said.getvalue())
    return code


def _place_experts(
    ctx: CliContext,
    name: str,
    found: Inspected,
    strategy: "Strategy | None",
    hot_profile: str,
    told: dict[str, Any],
    as_json: bool,
) -> None:
    import sys

    from twd.cli.moe.plan import placed, placement_document, show_placement
    from twd.cli.moe.refusals import refused

    if found.remote and (hot_profile or strategy == "profile-guided"):
        text = f"a profile belongs to a file by its hash, which takes the file: `twd pull {name}` first"
        raise CommandError(ExitCode.USAGE, text)
    disk = Path(sys.executable) if found.remote else None
    with refused():
        facts, plan, devices = placed(ctx, name, found.path, strategy, hot_profile, disk=disk)
    if as_json:
        told["moe_plan"] = placement_document(found.path, facts, plan, devices)
    else:
        show_placement(facts, plan)
