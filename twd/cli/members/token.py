"""`twd token`: join tokens; a token is shown once, and only the public half of its secret is kept."""

import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.members.own_broker import needed_broker, own_store
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.membership.roles import DEFAULT_ROLE, JOIN_ROLES
from twd.wire.failures import FailureCode, TwdError

if TYPE_CHECKING:
    from twd.membership.core import TokenRecord
    from twd.membership.tokens import NewToken

UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TTL_MAX_S: Final = 365 * 86_400
_as_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


class TimeSpan(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time such as 90s, 30m, 24h or 7d, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        found = re.fullmatch(r"(\d{1,9})([smhd])", str(value).strip())
        seconds = int(found[1]) * UNIT_S[found[2]] if found else 0
        if not 0 < seconds <= TTL_MAX_S:
            self.fail(f"{value!r} is no time such as 90s, 30m, 24h or 7d, of at most 365d", param, ctx)
        return seconds


@click.group()
def token() -> None:
    """Join tokens of the installation here: with one, another machine joins by `twd join`."""


@token.command()
@click.option("--ttl", type=TimeSpan(), default="24h", show_default=True, help="How long it lets machines in.")
@click.option("--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="For how many machines.")
@click.option(
    "--role",
    "roles",
    type=click.Choice(list(JOIN_ROLES)),
    multiple=True,
    default=(DEFAULT_ROLE,),
    show_default=True,
    help="What they may: machine: lend to pools; drafter: draft; edge: have an API; server: serve models. Repeatable.",
)
@click.option("--host", "hosts", multiple=True, help="A name or address of this machine for them; give it for each.")
@_as_json
@click.pass_obj
def add(
    ctx: CliContext, ttl: int, uses: int, roles: tuple[str, ...], hosts: tuple[str, ...], as_json: bool
) -> ExitCode:
    """Make a token and print it: this once, since its secret is not kept."""
    from twd.membership.tokens import new_token

    store, instance = own_store(ctx), needed_broker(ctx)
    made = new_token(store, instance, running_settings(ctx).bus.host, roles, ttl, uses, hosts)
    if as_json:
        click.echo(
            json.dumps({"token": made.token.as_text(), **_shown(made.record), "addresses": made.token.addresses})
        )
    else:
        _tell(made)
    return ExitCode.OK


def _tell(made: "NewToken") -> None:
    click.echo(made.token.as_text())
    places = ", ".join(made.token.addresses)
    click.echo(f"This line is a secret, shown this once. On the other machine, which reaches {places}:", err=True)
    click.echo("  twd join --token-file FILE     with this line in FILE; or `twd join`, which asks for it", err=True)
    click.echo("If it reaches this machine by another address, name that with --host.", err=True)


@token.command("list")
@_as_json
@click.pass_obj
def list_tokens(ctx: CliContext, as_json: bool) -> ExitCode:
    """All tokens that are remembered: those that ended, too, for a week."""
    tokens = own_store(ctx).load().tokens
    if as_json:
        click.echo(json.dumps([_shown(one) for one in tokens]))
    elif not tokens:
        click.echo("there are no tokens; `twd token add` makes one")
    else:
        _print(tokens)
    return ExitCode.OK


@token.command()
@click.argument("name", metavar="TOKEN")
@_as_json
@click.pass_obj
def revoke(ctx: CliContext, name: str, as_json: bool) -> ExitCode:
    """End a token, by its short name of `twd token list`. Machines that joined with it stay."""
    from twd.cli.members.changing import change
    from twd.membership.core import without_token

    store, now_ms = own_store(ctx), time.time_ns() // 1_000_000
    try:
        change(ctx, store, lambda members: without_token(members, name, now_ms))
    except TwdError as error:
        if error.code is not FailureCode.BAD_REQUEST:
            raise
        raise CommandError(ExitCode.NOT_FOUND, str(error)) from None
    click.echo(json.dumps({"id": name, "state": "revoked"}) if as_json else f"the token {name} is revoked")
    return ExitCode.OK


def _shown(one: "TokenRecord") -> dict[str, Any]:
    """A token without its key."""
    import msgspec

    fields = {field: value for field, value in msgspec.structs.asdict(one).items() if field != "public_key"}
    return {"id": one.id, "state": one.state(time.time_ns() // 1_000_000), **fields}


def _print(tokens: tuple["TokenRecord", ...]) -> None:
    from rich.markup import escape

    from twd.kit.terminal import show, table

    rows = table("token", "state", "for", "until", "uses", "used by")
    for one in tokens:
        until = datetime.fromtimestamp(one.expires_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        state = one.state(time.time_ns() // 1_000_000)
        uses = f"{len(one.used_by)} of {one.uses}"
        rows.add_row(one.id, state, ", ".join(one.roles), until, uses, escape(", ".join(one.used_by)) or "-")
    show(rows)
