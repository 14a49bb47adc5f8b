"""`twd pull`: a model from a hub to this machine."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twd.cli.common.context import CliContext
from twd.cli.common.local_stores import local_stores
from twd.cli.hub.by_service import PullWish, pull_there
from twd.cli.hub.lists import print_catalogue, print_repository
from twd.cli.swarm.transfer_bar import TransferView, hashing_bar
from twd.cli.swarm.watched import watched
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count, gist
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.models.client import HubClient
    from twd.models.environment import HubEnvironment
    from twd.models.remote_file import RemoteFile
    from twd.models.spec import Spec
    from twd.models.stores import ModelStore
    from twd.settings.model import SwarmConfig
    from twd.wire.failures import TwdError


@click.command()
@click.argument("spec", default="")
@click.option("--dir", "folder", default="", metavar="DIR", help="Folder for the file.  [default: models in the home]")
@click.option("--list", "listed", is_flag=True, help="Print the names of the catalogue; with org/repo: its files.")
@click.option("--revision", default="", help="Branch, tag or commit of the repository.  [default: main]")
@click.option("--node", default="", metavar="NAME", help="Fetch it on this machine of the bus; --dir is there, too.")
@click.option("--json", "as_json", is_flag=True, help="Progress as lines of JSON, as on a pipe.")
@click.pass_obj
def pull(ctx: CliContext, spec: str, folder: str, listed: bool, revision: str, node: str, as_json: bool) -> ExitCode:
    """Fetch a model, and check its SHA-256 before it gets its name. No running twd is needed; where one runs, machines
    that want the same file read it from the hub only once.

    SPEC is a name of `twd pull --list`, org/repo/file.gguf, org/repo:QUANT, ollama://NAME:TAG, or the URL of a file. A
    pull that was stopped goes on where it was. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to
    huggingface_hub.
    """
    import sys

    from twd.process import platform

    if not spec:
        if not listed:
            raise CommandError(ExitCode.USAGE, "name a model; `twd pull --list` prints the catalogue")
        print_catalogue(as_json)
        return ExitCode.OK
    asked, environment = _asked(spec, revision)
    as_json = as_json or not sys.stdout.isatty()
    where = _folder(ctx, folder) if not node and not listed else Path()
    if not listed:
        done = pull_there(ctx, PullWish(spec, revision, folder, node), environment, as_json)
        if done is not None:
            return done
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        if listed:
            return runner.run(print_repository(asked, environment, as_json))
        return runner.run(_pull(ctx, asked, environment, where, as_json))


def _asked(spec: str, revision: str) -> "tuple[Spec, HubEnvironment]":
    from twd.models.environment import read_hub_environment
    from twd.models.spec import BadSpec, parse_spec

    environment = read_hub_environment(os.environ, Path.home())
    try:
        return parse_spec(spec, revision, environment.hosts), environment
    except BadSpec as error:
        raise CommandError(ExitCode.USAGE, str(error)) from None


def _folder(ctx: CliContext, written: str) -> Path:
    """The folder for the file: that of the installation is made where it is missing, another one must be there."""
    if not written:
        ctx.home.prepare()
        return ctx.home.models
    folder = path_of(written)
    if folder.is_dir():
        return folder
    what = "is a file" if folder.exists() else "is not there"
    raise CommandError(ExitCode.NOT_FOUND, f"{folder} {what}; give --dir an existing folder")


async def _pull(ctx: CliContext, spec: "Spec", environment: "HubEnvironment", folder: Path, as_json: bool) -> ExitCode:
    from twd.models.hub import found_on_hub

    async with found_on_hub(spec, environment) as found:
        missing = await _missing(found.files, folder)
        _check_room(missing, folder)
        stores = local_stores(ctx)
        for file in missing:
            await _one(found.client, file, folder / file.name, ctx.settings.swarm, stores, as_json)
        if len(found.files) > 1:
            await asyncio.to_thread(_join, [folder / file.name for file in found.files])
    if not as_json:
        click.echo(str(folder / found.files[0].name))
    return ExitCode.OK


async def _missing(files: "Sequence[RemoteFile]", folder: Path) -> "list[RemoteFile]":
    from twd.swarm.hub.transfer import is_here_already

    missing = []
    for file in files:
        target = folder / file.name
        with hashing_bar(file.name) as progress:
            here = await asyncio.to_thread(is_here_already, target, file, progress)
        if here:
            click.echo(f"{target} is here already", err=True)
        else:
            missing.append(file)
    return missing


def _check_room(files: "Sequence[RemoteFile]", folder: Path) -> None:
    """Refuse before the first byte where the shards of a model do not fit together."""
    import shutil

    from twd.engine.host_memory.limits import gib
    from twd.pieces.names import part_of
    from twd.pieces.partial import ROOM_LEFT, NoRoomForFile

    parts = [part_of(folder / file.name) for file in files]
    there = sum(part.stat().st_blocks * 512 for part in parts if part.exists())
    needed, free = sum(file.size for file in files) - there, shutil.disk_usage(folder).free
    if needed > max(0, free - ROOM_LEFT):
        text = f"{count(len(files), 'file')} need {gib(needed)} more, and {folder} has {gib(free)} free"
        raise NoRoomForFile(f"{text}; make room there, or name another --dir")


async def _one(
    client: "HubClient",
    file: "RemoteFile",
    target: Path,
    settings: "SwarmConfig",
    stores: "list[ModelStore]",
    as_json: bool,
) -> None:
    from twd.pieces.manifest import check_piece_size
    from twd.swarm.hub.transfer import HubTransfer
    from twd.swarm.pace import Pace
    from twd.swarm.puller import Hooks
    from twd.wire.failures import TwdError

    troubles = Troubles()
    transfer = HubTransfer(
        client,
        file,
        target,
        parallel=settings.parallel,
        piece_bytes=check_piece_size(settings.piece_size_mib),
        pace=Pace(settings.download_mib_s),
        hooks=Hooks(trouble=troubles.told),
        stores=stores,
    )
    click.echo(f"{file.origin}, SHA-256 {file.sha256[:12]}…", err=True)
    try:
        await watched(transfer, TransferView(file.name, as_json))
    except TwdError as error:
        raise troubles.instead_of(error, file) from None


class Troubles:
    """What a hub said while a file came: told once each, and again when the pull gives up."""

    def __init__(self) -> None:
        self._last = ""
        self._told: set[str] = set()

    def told(self, name: str, text: str) -> None:
        """Tell people, unless it differs from an earlier trouble only in figures."""
        self._last = text
        if gist(text) not in self._told:
            self._told.add(gist(text))
            click.echo(f"\n{text}", err=True)

    def instead_of(self, error: "TwdError", file: "RemoteFile") -> "TwdError":
        """Return the error that a user should see: of a pull that gives up, what the hub said last."""
        from twd.wire.failures import FailureCode

        if error.code is FailureCode.NO_SOURCE and self._last:
            text = f"{file.name} did not come: {self._last}. What came is kept, and the same command goes on from there"
            return CommandError(ExitCode.NOTHING_RUNS, text)
        return error


def _join(paths: Sequence[Path]) -> None:
    """Tell the manifest of each shard which files belong together."""
    from twd.pieces.making import known_manifest, together
    from twd.pieces.manifest import write_manifest
    from twd.pieces.names import manifest_of

    known = [known_manifest(path) for path in paths]
    manifests = [one for one in known if one is not None]
    if len(manifests) == len(paths):
        for path, manifest in zip(paths, together(manifests), strict=True):
            write_manifest(manifest_of(path), manifest)
