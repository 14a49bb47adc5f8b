"""`twd trace JOB`: the story of one job, from the service that remembers."""

import asyncio
import json

import click
import msgspec

from twd.cli.context import Ground
from twd.cli.errors import CommandError
from twd.kit.asking import read_answer
from twd.kit.exit_codes import ExitCode
from twd.kit.trace import Step, merge_runs, tell
from twd.wire.base import Event, EventId, InstanceId, JobId
from twd.wire.codec import Rejected, decode, encode
from twd.wire.job import JobFailed, JobFinished
from twd.wire.routes import subject_of
from twd.wire.trace import HistoryReported, HistoryRequested, TraceReported, TraceRequested

ANSWER_S = 5.0


@click.command()
@click.argument("job", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print the events themselves, one JSON object a line.")
@click.option("--all", "every_step", is_flag=True, help="Every chunk and every guess, not only how many.")
@click.pass_obj
def trace(ground: Ground, job: str, as_json: bool, every_step: bool) -> ExitCode:
    """The story of JOB in order, with durations. Without JOB: the jobs that ended lately."""
    if not job:
        return _history(ground, as_json)
    answer = asyncio.run(_ask(ground, TraceRequested(job=JobId(job))))
    if not isinstance(answer, TraceReported) or not answer.events:
        raise CommandError(ExitCode.NOT_FOUND, f"nobody remembers a job {job!r}; `twd trace` lists the last ones")
    if as_json:
        for raw in answer.events:
            click.echo(bytes(raw))
        return ExitCode.OK
    steps = tell(_events(answer.events))
    _print(steps if every_step else merge_runs(steps))
    if answer.forgotten:
        click.echo(f"({answer.forgotten} events in the middle are no longer remembered)")
    return ExitCode.OK


async def _ask(ground: Ground, question: Event) -> Event | Rejected:
    async with ground.bus("admin") as bus:
        stamped = msgspec.structs.replace(question, id=EventId("ask"), source=InstanceId("cli"))
        return read_answer(await bus.request(subject_of(question), encode(stamped), timeout_s=ANSWER_S))


def _events(raws: list[msgspec.Raw]) -> list[Event]:
    decoded = (decode(bytes(raw)) for raw in raws)
    return [event for event in decoded if not isinstance(event, Rejected)]


def _print(steps: list[Step]) -> None:
    from rich.markup import escape

    from twd.cli.output import show, table

    rows = table("at", "after", "event", "who", "")
    for step in steps:
        at, after = f"{step.at_ms} ms", f"+{step.after_ms}"
        rows.add_row(at, after, step.kind, escape(step.source.split(".")[0]), escape(step.what))
    show(rows)


def _history(ground: Ground, as_json: bool) -> ExitCode:
    answer = asyncio.run(_ask(ground, HistoryRequested()))
    ended = _events(answer.events) if isinstance(answer, HistoryReported) else []
    if as_json:
        click.echo(json.dumps([json.loads(encode(event)) for event in ended]))
        return ExitCode.OK
    for event in ended:
        if isinstance(event, JobFinished | JobFailed):
            how = event.reason.value if isinstance(event, JobFinished) else event.failure.code.value
            click.echo(f"{event.job}  {how}  {event.stats.completion_tokens} tokens")
    if not ended:
        click.echo("no job has ended yet")
    return ExitCode.OK
