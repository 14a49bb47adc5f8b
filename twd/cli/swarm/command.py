"""`twd swarm`: models from machine to machine, every MiB checked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twd.cli.common.context import CliContext
from twd.cli.swarm.pull import pull
from twd.cli.swarm.status import status
from twd.cli.swarm.transfer_bar import hashing_bar
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.swarm.library import Library

FREE_PORT = click.IntRange(0, 65535)


@click.group()
def swarm() -> None:
    """Give models to other machines, take them from there, and see how far that is."""


swarm.add_command(pull)
swarm.add_command(status)


@swarm.command()
@click.argument("path", metavar="FILE|DIR")
@click.option("--host", default="", help="Where to listen; without: everywhere with a token, else on loopback.")
@click.option("--port", type=FREE_PORT, help="Port; 0 takes a free one.  [default: swarm.port]")
@click.option("--token", default="", help="Bearer token that pullers must have.  [default: swarm.token]")
@click.option("--allowed-ips", multiple=True, metavar="CIDR", help="Addresses that may pull; give it for each.")
@click.pass_obj
def seed(ctx: CliContext, path: str, host: str, port: int | None, token: str, allowed_ips: tuple[str, ...]) -> ExitCode:
    """Share FILE, or all models in DIR, until Ctrl-C; a missing manifest is made first."""
    from twd.process import platform
    from twd.swarm.door import Door, check_bind, host_for

    settings = ctx.settings.swarm
    token = token or settings.token
    host = host_for(host or settings.host, token)
    allowed = _networks(allowed_ips) or settings.allowed_ips
    check_bind(host, token)
    library = _share(_models(path_of(path)), settings.piece_size_mib)
    door = Door(token, allowed)
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        runner.run(_seed(library, host, settings.port if port is None else port, door, settings.upload_mib_s))
    return ExitCode.OK


def _networks(given: Sequence[str]) -> tuple[str, ...]:
    import ipaddress

    for one in given:
        try:
            ipaddress.ip_network(one, strict=False)
        except ValueError:
            text = f"--allowed-ips {one!r} is no address and no range; write it like 192.168.1.0/24"
            raise CommandError(ExitCode.USAGE, text) from None
    return tuple(given)


def _models(path: Path) -> list[Path]:
    """The first file of each model."""
    from twd.pieces.making import files_of

    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if not found:
            raise CommandError(ExitCode.NOT_FOUND, f"there is no .gguf file in {path}")
        later = {part for file in found for part in files_of(file)[1:]}
        return [file for file in found if file not in later]
    if not path.exists():
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {path}")
    return [path]


def _share(models: Sequence[Path], piece_mib: int) -> "Library":
    from twd.pieces.making import files_of, known_manifests, manifests_for
    from twd.pieces.manifest import check_piece_size
    from twd.swarm.library import Library
    from twd.swarm.shared import Shared

    library = Library()
    for model in models:
        made = known_manifests(model)
        if made is None:
            with hashing_bar(model.name) as progress:
                made = manifests_for(model, check_piece_size(piece_mib), progress=progress)
        for manifest, file in zip(made, files_of(model), strict=True):
            library.add(Shared.whole(manifest, file))
    return library


def _tell_how(library: "Library", url: str, token: str) -> None:
    """What is given, and the command that takes it."""
    for shared in library:
        click.echo(f"{shared.manifest.filename}  {shared.name}")
    which = f"{url}/manifest" if len(library) == 1 else "NAME"
    click.echo(f"{count(len(library), 'file')} at {url}; elsewhere:")
    click.echo(f"  twd swarm pull . --manifest {which} --peer {url}{token}")


async def _seed(library: "Library", host: str, port: int, door: object, upload_mib_s: float) -> None:
    from twd.net.addresses import bracketed, told_host
    from twd.process.run_service import StopRequests
    from twd.swarm.door import Door
    from twd.swarm.seeder import Seeder

    assert isinstance(door, Door)
    seeder = Seeder(library, upload_mib_s)
    bound = await seeder.listen(host, port, door)
    _tell_how(library, f"http://{bracketed(told_host(host))}:{bound}", " --token TOKEN" if door.token else "")
    stop = StopRequests(lambda: None)
    stop.watch()
    await stop.asked.wait()
    await seeder.close()
    library.close()
