"""`twd key`: who may enter; a key is shown once, and kept as a hash."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.wire.failures import FailureCode, TwdError

if TYPE_CHECKING:
    from twd.edge.auth.keys import ApiKey, KeyStore

_as_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
_LIMIT = click.IntRange(min=1)


@click.group()
def key() -> None:
    """The keys of this installation; a running edge follows within seconds."""


@key.command()
@click.argument("name")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="A model that it may use; give it for each.")
@click.option("--requests-per-minute", type=_LIMIT, help="Requests that it may begin in a minute.")
@click.option("--concurrent", type=_LIMIT, help="Requests that it may have in progress.")
@click.option("--tokens-per-day", type=_LIMIT, help="Tokens, read and written, that it may use in a day.")
@_as_json
@click.pass_obj
def add(ctx: CliContext, /, name: str, models: tuple[str, ...], as_json: bool, **limits: int | None) -> ExitCode:
    """Make a key named NAME and print it: this once, since only its hash is kept."""
    from twd.edge.auth.keys import new_key
    from twd.kit.ids import Ids

    given = {limit: value for limit, value in limits.items() if value is not None}
    with _ending(ExitCode.USAGE):
        secret, made = new_key(name, Ids().secret(), time.time_ns() // 1_000_000, models=list(models), **given)
        store = _store(ctx)
        first = not store.load()
        store.add(made)
    if as_json:
        click.echo(json.dumps({"key": secret, **_shown(made)}))
    else:
        _print_once(secret, name, first)
    return ExitCode.OK


def _print_once(secret: str, name: str, first: bool) -> None:
    click.echo(secret)
    click.echo(f"This is the only time that the key {name!r} is shown.", err=True)
    if first:
        click.echo("It is the first one: from now on nobody enters without a key.", err=True)


@key.command("list")
@_as_json
@click.pass_obj
def list_keys(ctx: CliContext, as_json: bool) -> ExitCode:
    """All keys by name, the revoked ones too, with their limits."""
    with _ending(ExitCode.NOT_FOUND):
        keys = _store(ctx).load()
    if as_json:
        click.echo(json.dumps([_shown(one) for one in keys]))
    elif not keys:
        click.echo("there are no keys; `twd key add NAME` makes one")
    else:
        _print(keys)
    return ExitCode.OK


@key.command()
@click.argument("name")
@_as_json
@click.pass_obj
def revoke(ctx: CliContext, name: str, as_json: bool) -> ExitCode:
    """End the key NAME; its name stays taken."""
    store = _store(ctx)
    with _ending(ExitCode.NOT_FOUND):
        store.revoke(name)
    click.echo(json.dumps({"name": name, "revoked": True}) if as_json else f"{name} is revoked")
    if all(one.revoked for one in store.load()) and not ctx.settings.edge.token:
        text = "It was the last one, and nobody enters without a key: `twd key add NAME` makes another one"
        click.echo(f"{text}; without {store.path} none is wanted.", err=True)
    return ExitCode.OK


def _store(ctx: CliContext) -> "KeyStore":
    from twd.edge.auth.keys import KeyStore

    return KeyStore(ctx.settings.home_dir)


@contextmanager
def _ending(code: ExitCode) -> Iterator[None]:
    """A name that cannot be used, or is not there, is the fault of the command line; a broken file is not."""
    try:
        yield
    except TwdError as error:
        if error.code is FailureCode.FORBIDDEN:  # elsewhere the bus says so
            raise CommandError(ExitCode.CONFIG, str(error)) from None
        if error.code is not FailureCode.BAD_REQUEST:
            raise
        raise CommandError(code, str(error)) from None


def _shown(one: "ApiKey") -> dict[str, Any]:
    """A key without its hash."""
    import msgspec

    return {field: value for field, value in msgspec.structs.asdict(one).items() if field != "sha256"}


def _print(keys: list["ApiKey"]) -> None:
    from rich.markup import escape

    from twd.kit.terminal import show, table

    rows = table("name", "made", "state", "models", "requests/min", "at once", "tokens/day")
    for one in keys:
        made = datetime.fromtimestamp(one.created_ms / 1000, UTC).strftime("%Y-%m-%d")
        limits = (one.requests_per_minute, one.concurrent, one.tokens_per_day)
        rows.add_row(
            one.name,
            made,
            "revoked" if one.revoked else "valid",
            escape(", ".join(one.models)) or "all",
            *(str(limit) if limit else "-" for limit in limits),
        )
    show(rows)
