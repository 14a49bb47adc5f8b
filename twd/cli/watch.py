"""`twd watch`: what travels on the bus, as it travels."""

import asyncio
import datetime
import json
import sys
from typing import Any, Final

import click

from twd.bus.base import BusMessage, matches
from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.messages.heard_events import heard_event
from twd.kit.terminal import printable
from twd.kit.trace import describe, kind_of
from twd.process import platform
from twd.process.run_service import StopRequests
from twd.wire.base import Event
from twd.wire.codec import Rejected
from twd.wire.routes import EVERYTHING, ROUTES, Delivery, route_of_subject

COLOURS: Final = {"failed": "red", "faulted": "red", "exited": "red", "rejected": "yellow", "dropped": "yellow"}


@click.command()
@click.argument("subject", default=EVERYTHING)
@click.option("--json", "as_json", is_flag=True, help="The messages themselves, one a line.")
@click.option("--filter", "filters", multiple=True, metavar="FIELD=VALUE", help="Only messages with this value.")
@click.option("-n", "--count", default=0, type=click.IntRange(min=0), help="End after so many messages; 0: never.")
@click.pass_obj
def watch(ctx: CliContext, subject: str, as_json: bool, filters: tuple[str, ...], count: int) -> ExitCode:
    """Show messages on SUBJECT as they come; `*` is one word, a last `>` the rest.

    `twd watch job` is short for `twd watch 'twd.v1.job.>'`.
    """
    patterns = patterns_for(subject if "." in subject or subject == ">" else f"twd.v1.{subject}.>")
    wanted = [parse_filter(text) for text in filters]
    return asyncio.run(_watch(ctx, patterns, wanted, as_json, count))


def patterns_for(subject: str) -> list[str]:
    """What to listen on. An ear on requests would hide that nobody is home, so only a plain wish opens one."""
    route = route_of_subject(subject)
    if route is not None:
        return [route.pattern if subject == route.tag else subject]
    broadcast = [route.pattern for route in ROUTES if route.delivery is Delivery.BROADCAST]
    chosen = [pattern for pattern in broadcast if matches(subject, pattern.replace("*", "any"))]
    if not chosen:
        kinds = sorted({route.tag.split(".")[2] for route in ROUTES})
        raise CommandError(ExitCode.USAGE, f"no message travels on {subject!r}; there are {', '.join(kinds)}")
    return chosen


def parse_filter(text: str) -> tuple[list[str], str]:
    """`stats.passes=3` as a path and a value."""
    field, equals, value = text.partition("=")
    if not equals:
        raise CommandError(ExitCode.USAGE, f"{text!r}: write a filter as FIELD=VALUE, for example model=llama")
    return field.split("."), value


def passes(data: bytes, filters: list[tuple[list[str], str]]) -> bool:
    """Whether a message has every wanted value."""
    if not filters:
        return True
    try:
        fields = json.loads(data)
    except ValueError:
        return False
    return all(_value(fields, path) == value for path, value in filters)


def _value(fields: Any, path: list[str]) -> str | None:
    for name in path:
        fields = fields.get(name) if isinstance(fields, dict) else None
    return fields if isinstance(fields, str) or fields is None else json.dumps(fields)


async def _watch(
    ctx: CliContext, patterns: list[str], filters: list[tuple[list[str], str]], as_json: bool, count: int
) -> ExitCode:
    stop = StopRequests(lambda: None)
    platform.on_stop_signals(asyncio.get_running_loop(), stop.request)
    shown = 0

    def show(message: BusMessage) -> None:
        nonlocal shown
        if stop.asked.is_set() or not passes(message.data, filters):
            return
        try:
            click.echo(printable(message.data.decode(errors="backslashreplace")) if as_json else _line(message))
            sys.stdout.flush()
        except BrokenPipeError:
            stop.request()
        shown += 1
        if shown == count:
            stop.request()

    async with ctx.bus() as bus:
        for pattern in patterns:
            await bus.subscribe(pattern, show)
        await stop.asked.wait()
    return ExitCode.OK


def _line(message: BusMessage) -> str:
    event = heard_event(message)
    if isinstance(event, Rejected):
        return click.style(printable(f"{message.subject}: {event.reason}"), fg="yellow")
    at = _time_of_day(event.at_ms)
    kind = kind_of(event)
    colour = COLOURS.get(kind.rsplit(".", 1)[-1])
    job = f"{_job(event)}  " if _job(event) else ""
    told = printable(f"{event.source.split('.')[0]:10}  {job}{describe(event)}")
    return f"{at}  {click.style(f'{printable(kind):18}', fg=colour)}  {told}"


def _time_of_day(at_ms: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return f"{'no time':12}"  # anybody can write any stamp


def _job(event: Event) -> str:
    return str(getattr(event, "job", "") or getattr(event, "session", ""))
