"""`twd trace JOB`: the story of one job, from the service that remembers."""

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.messages.heard_events import stamp
from twd.kit.messages.reply_decoding import read_answer
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.kit.trace import TraceStep, merge_runs, tell
from twd.wire.base import Event, JobId
from twd.wire.codec import Rejected, decode, encode
from twd.wire.job import JobFailed, JobFinished
from twd.wire.routes import subject_of
from twd.wire.service import read_lease
from twd.wire.trace import HistoryReported, HistoryRequested, TraceReported, TraceRequested

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus

ANSWER_S = 5.0


@click.command()
@click.argument("job", required=False, default="")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the events of JOB as JSON, one a line; without JOB one list."
)
@click.option("--all", "every_step", is_flag=True, help="Every chunk and every guess, not only how many.")
@click.pass_obj
def trace(ctx: CliContext, job: str, as_json: bool, every_step: bool) -> ExitCode:
    """The story of JOB in order, with durations. Without JOB: the jobs that ended lately."""
    if not job:
        return _history(ctx, as_json)
    answer, names = asyncio.run(_ask_story(ctx, JobId(job)))
    if not isinstance(answer, TraceReported) or not answer.events:
        raise CommandError(ExitCode.NOT_FOUND, f"nobody remembers a job {job!r}; `twd trace` lists the last ones")
    if as_json:
        for raw in answer.events:
            click.echo(bytes(raw))
        return ExitCode.OK
    steps = [replace(step, what=_with_names(step.what, names)) for step in tell(_events(answer.events))]
    _print(steps if every_step else merge_runs(steps))
    if answer.forgotten:
        click.echo(f"({answer.forgotten} events in the middle are no longer remembered)")
    return ExitCode.OK


async def _ask(ctx: CliContext, question: Event) -> Event | Rejected:
    async with ctx.bus("admin") as bus:
        return await _answer(bus, question)


async def _answer(bus: "NatsBus", question: Event) -> Event | Rejected:
    stamped = stamp(question, bus.name)
    return read_answer(await bus.request(subject_of(stamped), encode(stamped), timeout_s=ANSWER_S))


async def _ask_story(ctx: CliContext, job: JobId) -> tuple[Event | Rejected, dict[str, str]]:
    """The story; and what the drafters that are there now draft with, by instance."""
    async with ctx.bus("admin") as bus:
        answer = await _answer(bus, TraceRequested(job=job))
        entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    leases = [lease for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
    drafters = [lease for lease in leases if lease.service == "drafter" and lease.model]
    return answer, {lease.instance: f"{lease.model}@{lease.node}" for lease in drafters}


def _with_names(what: str, names: dict[str, str]) -> str:
    """Drafters by what they draft with: instances have another name after each start."""
    for instance, name in names.items():
        what = what.replace(instance, name)
    return what


def _events(raws: list[msgspec.Raw]) -> list[Event]:
    decoded = (decode(bytes(raw)) for raw in raws)
    return [event for event in decoded if not isinstance(event, Rejected)]


def _print(steps: list[TraceStep]) -> None:
    from rich.markup import escape

    from twd.kit.terminal import show, table

    rows = table("at", "after", "event", "who", "")
    for step in steps:
        at, after = f"{step.at_ms} ms", f"+{step.after_ms}"
        rows.add_row(at, after, step.kind, escape(step.source.split(".")[0]), escape(step.what))
    show(rows)


def _history(ctx: CliContext, as_json: bool) -> ExitCode:
    answer = asyncio.run(_ask(ctx, HistoryRequested()))
    ended = _events(answer.events) if isinstance(answer, HistoryReported) else []
    if as_json:
        click.echo(json.dumps([json.loads(encode(event)) for event in ended]))
        return ExitCode.OK
    if not ended:
        click.echo("no job has ended yet")
    else:
        _print_history(ended)
    return ExitCode.OK


def _print_history(ended: list[Event]) -> None:
    from rich.markup import escape

    from twd.kit.terminal import show, table

    rows = table("job", "ended", "model", "how", "tokens", "tokens/s", "guesses right")
    for event in ended:
        if isinstance(event, JobFinished | JobFailed):
            how = event.reason.value if isinstance(event, JobFinished) else event.failure.code.value
            stats, at = event.stats, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at_ms / 1000))
            speed = f"{stats.completion_tokens / stats.decode_ms * 1000:.1f}" if stats.decode_ms else "-"
            right = f"{stats.taken / stats.checked:.0%}" if stats.checked else "-"
            rows.add_row(event.job, at, escape(event.model) or "-", how, str(stats.completion_tokens), speed, right)
    show(rows)
