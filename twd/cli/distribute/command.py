"""`twd distribute MODEL`: the file on all machines, each by the way that suits it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.distribute.over_ssh import OverSsh, show
from twd.cli.distribute.targets import Method, SshTarget, parse_target
from twd.cli.distribute.to_agents import machines_without, send_to
from twd.cli.models.command import file_of
from twd.kit.exit_codes import ExitCode
from twd.net.addresses import bracketed

if TYPE_CHECKING:
    from twd.settings.model import PoolConfig
    from twd.wire.node import NodeFacts


@click.command()
@click.argument("model")
@click.option(
    "-t", "--target", "targets", multiple=True, metavar="HOST:PATH", help="Only there, by ssh; more than once."
)
@click.option(
    "--method",
    type=click.Choice(["auto", "rsync", "swarm"]),
    default="auto",
    show_default=True,
    help="By ssh: rsync (else scp), or a pull there; auto: a pull of files above 1 GiB where twd is installed.",
)
@click.option("--token", default="", help="Token of the pulls; without: a new one.  [default: swarm.token]")
@click.option("--ssh-option", "options", multiple=True, metavar="NAME=VALUE", help="One more option of ssh, as -o.")
@click.option("--dry-run", is_flag=True, help="Print what would be done.")
@click.pass_obj
def distribute(
    ctx: CliContext,
    model: str,
    targets: tuple[str, ...],
    method: str,
    token: str,
    options: tuple[str, ...],
    dry_run: bool,
) -> ExitCode:
    """Copy MODEL, a name in the settings or a file, to all machines.

    Without -t: to every machine of the bus that lacks it, and by ssh to each of `pool.workers` that has a `model_dir`.
    """
    from twd.gguf_tools.inspect import shards_of
    from twd.gguf_tools.model_file import file_hash

    settings = ctx.settings if model in ctx.settings.models else running_settings(ctx)
    file = Path(file_of(settings, ctx.node, model)[1].path)
    asked = [parse_target(one) for one in targets]
    hash_ = file_hash(file)
    nodes = [] if asked or method == "rsync" else asyncio.run(machines_without(ctx, hash_))
    by_ssh = asked or workers_by_ssh(ctx.settings.pool, nodes)
    if not nodes and not by_ssh:
        return _nobody(method)
    swarm = ctx.settings.swarm
    over = OverSsh(shards_of(file), cast(Method, method), token or swarm.token, options, swarm.piece_size_mib)
    if dry_run:
        for facts in nodes:
            click.echo(f"{facts.node}: its swarm service pulls {file.name}")
        for line in over.lines(by_ssh):
            click.echo(line)
        return ExitCode.OK
    return asyncio.run(_send(ctx, file, hash_, nodes, over, by_ssh))


async def _send(
    ctx: CliContext,
    file: Path,
    hash_: str,
    nodes: "Sequence[NodeFacts]",
    over: OverSsh,
    targets: Sequence[SshTarget],
) -> ExitCode:
    done = await send_to(ctx, file, hash_, nodes) if nodes else []
    return show([*done, *(await over.send(targets) if targets else [])])


def _nobody(method: str) -> ExitCode:
    more = "; --method rsync leaves the machines of the bus out" if method == "rsync" else ""
    click.echo(f"no machine lacks it: name some with -t HOST:PATH, or as pool.workers with a model_dir{more}", err=True)
    return ExitCode.OK if not more else ExitCode.USAGE


def workers_by_ssh(pool: "PoolConfig", nodes: "Sequence[NodeFacts]") -> list[SshTarget]:
    """The workers of the settings with a folder for models, but for those that the bus reaches."""
    reached = {name for facts in nodes for name in (facts.node, facts.hostname)}
    return [
        parse_target(f"{one.ssh_user}@" * bool(one.ssh_user) + f"{bracketed(one.host)}:{one.model_dir}")
        for one in pool.workers
        if one.model_dir and one.host not in reached
    ]
