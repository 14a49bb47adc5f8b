"""`twd swarm pull`: a model from other machines, by the service that runs here, or by the command itself."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from twd.cli.common.context import CliContext
from twd.cli.common.local_stores import local_stores
from twd.cli.swarm.transfer_bar import TransferView
from twd.cli.swarm.watched import watched
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twd.models.stores import ModelStore
    from twd.pieces.manifest import Manifest
    from twd.settings.model import SwarmConfig
    from twd.swarm.library import Library
    from twd.swarm.peer import Peers
    from twd.swarm.puller import Hooks
    from twd.swarm.transfer import Transfer
    from twd.wire.swarm import LayerRange


class Asked(NamedTuple):
    """What the command line says."""

    dest: str
    manifest: str
    peers: tuple[str, ...]
    parallel: int
    token: str
    verify: bool
    host: str
    port: int | None
    stay: bool
    layers: "LayerRange | None" = None
    stores: "Sequence[ModelStore]" = ()


@click.command()
@click.argument("dest")
@click.option("--manifest", default="", metavar="URL|FILE|NAME", help="What to pull; without: the only file of a peer.")
@click.option("--peer", "peers", multiple=True, metavar="URL", help="A seeder; give it for each.")
@click.option("--parallel", type=click.IntRange(1, 64), help="Requests at the same time.  [default: swarm.parallel]")
@click.option("--token", default="", help="Bearer token of the seeders.  [default: swarm.token]")
@click.option("--layers", default="", metavar="A-B", help="Only these layers, B not included: DEST becomes a slice.")
@click.option("--head", is_flag=True, help="With --layers: with the output head; A-B may then be empty, as in 30-30.")
@click.option("--verify", is_flag=True, help="Read the whole file once more in the end, and compare its SHA-256.")
@click.option("--host", default="", help="With --port: where others may take what came already.")
@click.option("--port", type=click.IntRange(0, 65535), help="Give to others, too, while it comes; 0: a free port.")
@click.option("--stay", is_flag=True, help="With --port: go on giving when all is here, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Progress as lines of JSON, as on a pipe.")
@click.pass_obj
def pull(
    ctx: CliContext,
    dest: str,
    manifest: str,
    peers: tuple[str, ...],
    parallel: int | None,
    token: str,
    layers: str,
    head: bool,
    verify: bool,
    host: str,
    port: int | None,
    stay: bool,
    as_json: bool,
) -> ExitCode:
    """Pull a model to DEST, a file or a folder. Without --peer, the service here finds machines that have it.

    With --layers only the MiBs that hold these layers come, and a slice of them is written to DEST.
    """
    import sys

    from twd.process import platform

    settings = ctx.settings.swarm
    token, host = token or settings.token, host or settings.host
    only = layer_range(layers, head)
    asked = Asked(dest, manifest, peers, parallel or settings.parallel, token, verify, host, port, stay, only)
    asked = asked._replace(stores=local_stores(ctx))
    as_json = as_json or not sys.stdout.isatty()
    if not peers and not manifest.startswith(("http://", "https://")):
        from twd.cli.swarm.ask import pull_by_service

        return pull_by_service(ctx, asked, as_json)
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(_pull(asked, ctx, as_json))


def layer_range(layers: str, head: bool) -> "LayerRange | None":
    """The layers that the options name; None for all of the file."""
    import re

    from twd.wire.swarm import LayerRange

    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", layers)
    if layers and found is None:
        text = f"--layers {layers!r} is no range; write it as 0-16, the end not included"
        raise CommandError(ExitCode.USAGE, text)
    if found is None:
        if head:
            raise CommandError(ExitCode.USAGE, "--head says more of --layers: give both, as in `--layers 24-32 --head`")
        return None
    return LayerRange(first=int(found[1]), end=int(found[2]), head=head)


async def _pull(asked: Asked, ctx: CliContext, as_json: bool) -> ExitCode:
    from twd.pieces.signing import check_signer
    from twd.swarm.library import Library
    from twd.swarm.peer import Peers

    peers, library, settings = Peers(asked.token), Library(), ctx.settings.swarm
    try:
        first = await _find(peers, asked)
        manifests = [first, *await _others(peers, asked, first)]
        for manifest in manifests:
            check_signer(manifest, settings.signers)
        await _serve(library, asked, settings)
        if asked.layers is not None:
            await _layers(peers, library, asked, ctx, manifests, as_json)
        else:
            for manifest in manifests:
                await _one(peers, library, asked, settings, manifest, as_json)
        if asked.stay and asked.port is not None:
            await _until_stopped()
    finally:
        await peers.close()
        library.close()
    return ExitCode.OK


async def _until_stopped() -> None:
    from twd.process.run_service import StopRequests

    stop = StopRequests(lambda: None)
    stop.watch()
    await stop.asked.wait()


def _urls(asked: Asked) -> list[str]:
    """The seeders: those that are named, else the one that gave the manifest."""
    if asked.peers:
        return [one.rstrip("/") for one in asked.peers]
    return [asked.manifest.removesuffix("/manifest").split("/v1/swarm")[0].rstrip("/")]


async def _find(peers: "Peers", asked: Asked) -> "Manifest":
    """The manifest, wherever it is."""
    from twd.pieces.manifest import load_manifest

    if asked.manifest.startswith(("http://", "https://")):
        return await peers.manifest(asked.manifest)
    if asked.manifest and path_of(asked.manifest).is_file():
        return load_manifest(path_of(asked.manifest))
    return await _by_name(peers, asked)


async def _by_name(peers: "Peers", asked: Asked) -> "Manifest":
    from twd.pieces.source import SourceError
    from twd.swarm.peer import files_at

    found: dict[str, str] = {}
    names: dict[str, str] = {}
    problems = []
    for url in _urls(asked):
        try:
            for root, name in await files_at(peers, url):
                names[root] = name
                if not asked.manifest or asked.manifest in (name, name.removesuffix(".gguf"), root):
                    found.setdefault(root, url)
        except SourceError as error:
            problems.append(str(error))
    if len(found) == 1:
        root, url = found.popitem()
        return await peers.manifest(f"{url}/v1/swarm/{root}/manifest")
    raise _none_or_several(asked, found, names, problems)


def _none_or_several(asked: Asked, found: dict[str, str], names: dict[str, str], problems: list[str]) -> CommandError:
    if found:
        listed = ", ".join(f"{names[root]} ({root[:12]}…)" for root in found)
        return CommandError(ExitCode.USAGE, f"several files could be meant: {listed}; give --manifest with a root")
    if names:
        import difflib

        near = difflib.get_close_matches(asked.manifest, list(names.values()), n=3, cutoff=0.3) or list(names.values())
        text = f"no peer has {asked.manifest!r}; there is: {', '.join(near[:5])}"
        return CommandError(ExitCode.NOT_FOUND, text)
    return CommandError(ExitCode.NOTHING_RUNS, "; ".join(problems) or "the peers share nothing")


async def _others(peers: "Peers", asked: Asked, first: "Manifest") -> "list[Manifest]":
    """The manifests of the other files of a split model."""
    if not first.model_hash:
        return []
    if asked.layers is None and not path_of(asked.dest).is_dir():
        text = f"{first.filename} has {len(first.shards)} files; name a folder that is there instead of {asked.dest}"
        raise CommandError(ExitCode.USAGE, text)
    url = _urls(asked)[0]
    return [await peers.manifest(f"{url}/v1/swarm/{shard.root}/manifest") for shard in first.shards[1:]]


async def _serve(library: "Library", asked: Asked, settings: "SwarmConfig") -> None:
    """Let others take what came already, if that is wished."""
    from twd.swarm.door import Door, check_bind, host_for
    from twd.swarm.seeder import Seeder

    if asked.port is None:
        return
    host = host_for(asked.host, asked.token)
    check_bind(host, asked.token)
    bound = await Seeder(library, settings.upload_mib_s).listen(
        host, asked.port, Door(asked.token, settings.allowed_ips)
    )
    click.echo(f"gives at port {bound}", err=True)


async def _one(
    peers: "Peers", library: "Library", asked: Asked, settings: "SwarmConfig", manifest: "Manifest", as_json: bool
) -> None:
    from twd.swarm.pace import Pace
    from twd.swarm.transfer import Transfer, is_here, target_in

    target = target_in(path_of(asked.dest), manifest.filename)
    if await asyncio.to_thread(is_here, target, manifest):
        click.echo(f"{target} is here already", err=True)
        return
    pace = Pace(settings.download_mib_s)
    transfer = Transfer(manifest, target, library=library, parallel=asked.parallel, pace=pace, hooks=_hooks())
    transfer.stores = asked.stores
    await watched(_with_peers(transfer, peers, asked), TransferView(manifest.filename, as_json))
    if asked.verify:
        await asyncio.to_thread(_verify, target, manifest)
    if not as_json:
        click.echo(str(target))


def _hooks() -> "Hooks":
    from twd.swarm.puller import Hooks

    return Hooks(banned=lambda name, reason, unit: click.echo(f"\nbanned: {reason}", err=True))


def _with_peers(transfer: "Transfer", peers: "Peers", asked: Asked) -> "Transfer":
    from twd.swarm.peer import Peer

    for url in _urls(asked):
        transfer.pull.add(Peer(peers, url, transfer.manifest.name, transfer.manifest.total_size))
    return transfer


async def _layers(
    peers: "Peers", library: "Library", asked: Asked, ctx: CliContext, manifests: "Sequence[Manifest]", as_json: bool
) -> None:
    """Pull what some layers need to the folder of partial files, and write the slice."""
    from twd.gguf_tools.slice import write_slice
    from twd.pieces.parts import PartFolder
    from twd.swarm.layer_transfer import LayerTransfer
    from twd.swarm.pace import Pace
    from twd.swarm.puller import Ranges
    from twd.swarm.transfer import Transfer

    assert asked.layers is not None
    layers, dest = asked.layers, path_of(asked.dest)
    parts, pace = PartFolder.of(ctx.home.cache, ctx.settings.swarm.disk_gib), Pace(ctx.settings.swarm.download_mib_s)

    def begin(manifest: "Manifest", target: Path, ranges: Ranges) -> Transfer:
        transfer = Transfer(
            manifest,
            target,
            library=library,
            parallel=asked.parallel,
            pace=pace,
            hooks=_hooks(),
            ranges=ranges,
        )
        return _with_peers(transfer, peers, asked)

    transfer = LayerTransfer(manifests, layers, parts, begin)

    def cut() -> Path:
        path = dest / transfer.slice_name if dest.is_dir() else dest
        return write_slice(transfer.source, layers.first, layers.end, path, head=layers.head).path

    made = await watched(transfer, TransferView(manifests[0].filename, as_json), cut)
    if not as_json:
        click.echo(str(made))


def _verify(target: Path, manifest: "Manifest") -> None:
    import hashlib

    if not manifest.sha256:
        raise CommandError(ExitCode.DIFFERENT, "this manifest tells no SHA-256 of the whole; all its pieces were right")
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != manifest.sha256:
        text = f"{target} has SHA-256 {digest}, and its manifest says {manifest.sha256}; pull it again"
        raise CommandError(ExitCode.DIFFERENT, text)
