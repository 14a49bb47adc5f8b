"""`twd swarm status`: how much of a file is here, and what this machine shares."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.wire.swarm import SharedFile


@click.command()
@click.argument("file", default="")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def status(ctx: CliContext, file: str, as_json: bool) -> ExitCode:
    """How much of FILE is here; without FILE: what is in its folders, and what machines of the bus share."""
    from twd.pieces.names import BITMAP, MANIFEST

    if file:
        told = [_state(path_of(file))]
    else:
        folders = (ctx.home.models, *(path_of(one) for one in ctx.settings.agent.model_dirs))
        beside = {one for folder in folders for end in (MANIFEST, BITMAP) for one in folder.glob(f"*{end}")}
        named = {one.with_name(one.name.removesuffix(MANIFEST).removesuffix(BITMAP)) for one in beside}
        told = [_state(one) for one in sorted(named)]
        told += _elsewhere(ctx)
    if as_json:
        click.echo(msgspec.json.encode(told[0] if file else told).decode())
        return ExitCode.OK
    _print(told)
    return ExitCode.OK


def _elsewhere(ctx: CliContext) -> list[dict[str, Any]]:
    """What machines of the bus share, this one too, as their leases tell; nothing where no bus runs."""
    if not ctx.settings.bus.url and ctx.instance() is None:
        return []
    return asyncio.run(_on_the_bus(ctx))


async def _on_the_bus(ctx: CliContext) -> list[dict[str, Any]]:
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.swarm.machines import machines_of

    async with ctx.bus("status") as bus:
        leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        machines = machines_of(await leases.entries(), "")
    return [_shared(machine.node, one) for machine in machines for one in machine.files]


def _shared(node: str, one: "SharedFile") -> dict[str, Any]:
    if not one.root:
        mib = -(-one.size // (1 << 20))
        return {"file": one.file, "node": node, "state": "not read yet", "have_mib": mib, "missing_mib": 0, "root": ""}
    state, missing = "shared whole" if one.have == one.units else "partial", one.units - one.have
    return {
        "file": one.file, "node": node, "state": state, "have_mib": one.have, "missing_mib": missing, "root": one.root
    }  # fmt: skip


def _state(path: Path) -> dict[str, Any]:
    """What is known of one file from what lies beside it."""
    from twd.pieces.making import known_manifest
    from twd.pieces.names import bitmap_of
    from twd.pieces.partial import look

    found = look(path)
    if found is not None:
        return _told(path, "partial", found.have, found.units - found.have, found.name)
    if not path.is_file():
        text = f"there is neither {path} nor a part of it ({bitmap_of(path).name})"
        raise CommandError(ExitCode.NOT_FOUND, text)
    manifest = known_manifest(path)
    units = -(-path.stat().st_size // (1 << 20))
    state = "whole" if manifest is not None else "without a manifest"
    root = manifest.name if manifest is not None else ""
    return _told(path, state, units, 0, root)


def _told(path: Path, state: str, have: int, missing: int, root: str) -> dict[str, Any]:
    return {"file": str(path), "state": state, "have_mib": have, "missing_mib": missing, "root": root}


def _print(told: list[dict[str, Any]]) -> None:
    from twd.kit.terminal import show, table

    if not told:
        click.echo("nothing is shared or pulled here; `twd swarm pull` fetches, `twd swarm seed` shares")
        return
    rows = table("file", "where", "state", "there", "missing", "root")
    for one in told:
        mib = f"{one['have_mib']:,} MiB", f"{one['missing_mib']:,} MiB"
        rows.add_row(Path(one["file"]).name, one.get("node", "this disk"), one["state"], *mib, str(one["root"])[:16])
    show(rows)
