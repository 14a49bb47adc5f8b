"""`twd manifest create FILE`: the hashes by which a model is shared and checked."""

from pathlib import Path

import click

from twd.cli.common.context import CliContext
from twd.cli.common.output import check_output
from twd.cli.swarm.transfer_bar import hashing_bar
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.settings.paths import path_of


@click.group()
def manifest() -> None:
    """What is written down of a model's file, so that each MiB of a copy can be checked."""


@manifest.command()
@click.argument("file")
@click.option("--piece-size", type=int, help="MiB of a piece, a power of two.  [default: swarm.piece_size_mib]")
@click.option("--no-inspect", is_flag=True, help="Do not look into the file: no facts of the model, no tensors.")
@click.option("-o", "--output", default="", metavar="OUT", help="Write here, instead of beside the file.")
@click.option("--torrent", is_flag=True, help="Write a private BitTorrent v2 torrent, too: FILE.torrent.")
@click.option("--web-seed", "web_seeds", multiple=True, metavar="URL", help="With --torrent: a seeder's address.")
@click.option("--sign", "seed_file", default="", metavar="SEED", help="Sign with the nkey seed in this file.")
@click.pass_obj
def create(
    ctx: CliContext,
    file: str,
    piece_size: int | None,
    no_inspect: bool,
    output: str,
    torrent: bool,
    web_seeds: tuple[str, ...],
    seed_file: str,
) -> ExitCode:
    """Read FILE once and write FILE.twd.manifest; all files of a split model together."""
    from twd.net.url_guard import parse_base
    from twd.pieces.making import files_of, make_manifest, together
    from twd.pieces.manifest import check_piece_size, write_manifest
    from twd.pieces.names import manifest_of
    from twd.pieces.signing import sign

    piece_bytes = check_piece_size(ctx.settings.swarm.piece_size_mib if piece_size is None else piece_size)
    paths = files_of(path_of(file))
    if output and len(paths) > 1:
        raise CommandError(ExitCode.USAGE, f"this model has {len(paths)} files, and -o names one; leave it out")
    if output:
        check_output(path_of(output), *paths)
    for url in web_seeds:
        parse_base(url)
    made = []
    for path in paths:
        with hashing_bar(path.name) as progress:
            made.append(make_manifest(path, piece_bytes, with_inspection=not no_inspect, progress=progress))
    for path, one in zip(paths, together(made), strict=True):
        told = sign(one, path_of(seed_file)) if seed_file else one
        target = path_of(output) if output else manifest_of(path)
        write_manifest(target, told)
        click.echo(f"{target}\nroot {told.root}\n{count(len(told.pieces), 'piece')}, SHA-256 {told.sha256}")
        if torrent:
            click.echo(_write_torrent(ctx, path, told, web_seeds))
    return ExitCode.OK


def _write_torrent(ctx: CliContext, path: Path, made: object, web_seeds: tuple[str, ...]) -> Path:
    from twd.net.addresses import bracketed, told_host
    from twd.pieces.manifest import Manifest
    from twd.pieces.torrent import torrent_of
    from twd.swarm.door import host_for

    assert isinstance(made, Manifest)
    swarm = ctx.settings.swarm
    here = f"http://{bracketed(told_host(host_for(swarm.host, swarm.token)))}:{swarm.port}"
    seeds = [f"{one.rstrip('/')}/v1/swarm/{made.root}/file/" for one in web_seeds or (here,)]
    target = path.with_name(path.name + ".torrent")
    target.write_bytes(torrent_of(made, seeds))
    return target
