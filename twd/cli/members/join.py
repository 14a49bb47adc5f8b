"""`twd join` and `twd leave`: this machine as a member of another machine's installation."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import click

from twd.bus.base import BusError
from twd.bus.join import JoinToken, read_token
from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import node_id
from twd.settings.identity import Identity, read_identity
from twd.wire.failures import FailureCode

VARIABLE: Final = "TWD_JOIN_TOKEN"
BYTES_MAX: Final = 8192


@click.command()
@click.option("--token-file", metavar="FILE", help="File that holds the token; - is standard input.")
@click.option("--node", default="", help="The name of this machine there; by default its host name.")
@click.pass_obj
def join(ctx: CliContext, token_file: str | None, node: str) -> ExitCode:
    """Join the installation that made a token: from --token-file, TWD_JOIN_TOKEN, or typed in."""
    home = ctx.home.path
    identity = read_identity(home)
    token = _token(ctx, token_file)
    if identity is not None and _still_in(home, identity, token):
        click.echo(f"this machine joined already, as {identity.node}")
        return ExitCode.OK
    _check_free(ctx, identity)
    from twd.membership.joining import forget, join

    if identity is not None:
        forget(home)
    joined = asyncio.run(join(token, home, node_id(node) if node else ctx.node))
    click.echo(f"joined {joined.url} as {joined.node}, with the rights of: {', '.join(joined.roles)}")
    click.echo("`twd up agent` lends this machine's devices, `twd run drafter --model FILE.gguf` drafts", err=True)
    return ExitCode.OK


@click.command()
@click.option("--force", is_flag=True, help="Forget the keys here, even if the installation cannot be told.")
@click.pass_obj
def leave(ctx: CliContext, force: bool) -> ExitCode:
    """Leave the installation: its broker lets this machine in no longer, and the keys here are deleted."""
    from twd.membership.joining import forget, leave

    home = ctx.home.path
    try:
        identity = read_identity(home)
        if identity is None:
            raise CommandError(ExitCode.NOT_FOUND, f"this machine did not join any installation (TWD_HOME: {home})")
        asyncio.run(leave(home, identity))
    except BusError as error:
        if error.code is not FailureCode.UNAUTHENTICATED and not force:
            text = f"the installation cannot be told: {error}. `twd leave --force` forgets the keys here alone"
            raise CommandError(ExitCode.BUS_DOWN, text) from None
        click.echo(f"the installation was not told: {error}", err=True)
    forget(home)
    click.echo("this machine left; its keys are deleted")
    return ExitCode.OK


def _token(ctx: CliContext, token_file: str | None) -> JoinToken:
    try:
        return read_token(_text(ctx, token_file))
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"the join token cannot be used: {error}") from None


def _text(ctx: CliContext, token_file: str | None) -> str:
    if token_file == "-":
        return sys.stdin.read(BYTES_MAX)
    if token_file:
        try:
            with Path(token_file).expanduser().open("rb") as file:
                return file.read(BYTES_MAX).decode("utf-8", "replace")
        except OSError as error:
            raise CommandError(ExitCode.NOT_FOUND, f"{token_file} cannot be read: {error.strerror}") from None
    if given := ctx.environment.get(VARIABLE):
        return given
    if not sys.stdin.isatty():
        text = f"there is no token: give --token-file FILE, --token-file - or {VARIABLE}"
        raise CommandError(ExitCode.USAGE, f"{text}; `twd token add` on the broker's machine prints one")
    return str(click.prompt("join token", hide_input=True, err=True))


def _still_in(home: Path, identity: Identity, token: JoinToken) -> bool:
    """Whether this machine is a member of the token's installation already. Raises where it is one of another."""
    from twd.membership.joining import check_identity

    try:
        asyncio.run(check_identity(home, identity))
    except BusError as error:
        if error.code is FailureCode.UNAUTHENTICATED or identity.fingerprint == token.fingerprint:
            return False
        text = f"this machine joined {identity.url} as {identity.node}, which does not answer now: {error}"
        raise CommandError(ExitCode.CONFIG, f"{text}. `twd leave --force` forgets it") from None
    if identity.fingerprint == token.fingerprint:
        return True
    text = f"this machine joined the installation at {identity.url} as {identity.node}: `twd leave` first"
    raise CommandError(ExitCode.CONFIG, text)


def _check_free(ctx: CliContext, identity: Identity | None) -> None:
    """Refuse where something else runs here, or the settings name another broker."""
    if identity is None and ctx.settings.bus.url:
        place = ctx.loaded.places.get("bus.url")
        text = f"bus.url names a broker already ({place}): a machine that joins uses the broker that it joined"
        raise CommandError(ExitCode.CONFIG, f"{text}. Remove that setting first")
    instance = ctx.instance()
    if instance is not None:
        text = f"twd runs here ({instance.named()}): `twd down` first"
        raise CommandError(ExitCode.ALREADY_RUNNING, text)
