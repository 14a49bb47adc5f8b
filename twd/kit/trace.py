"""Shows events to people: one line for each event, and all events of a job with their durations."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twd.kit.wording import count
from twd.wire.base import Event
from twd.wire.draft import DrafterAttached, DrafterChecked, DraftGranted, DraftProposed, SessionOpened
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobStarted, JobSubmitted, TokensAccepted
from twd.wire.judging import AnswerAudited, AnswerJudged, ModeClosed, TokensAgreed
from twd.wire.model import ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.routes import ROUTE_OF
from twd.wire.service import (
    MessageDropped,
    MessageRejected,
    ServiceExited,
    ServiceFaulted,
    ServiceStarted,
    ServiceStopped,
)


@dataclass(frozen=True)
class TraceStep:
    """One event of a trace. `at_ms`: milliseconds since the trace began; `after_ms`: since the step before."""

    at_ms: int
    after_ms: int
    kind: str
    source: str
    what: str


def tell(events: Iterable[Event]) -> list[TraceStep]:
    """Return the events as trace steps, in order of time."""
    ordered = sorted(events, key=lambda event: event.at_ms)
    began = ordered[0].at_ms if ordered else 0
    steps: list[TraceStep] = []
    for event, before in zip(ordered, [None, *ordered], strict=False):
        after = event.at_ms - before.at_ms if before else 0
        steps.append(TraceStep(event.at_ms - began, after, kind_of(event), event.source, describe(event)))
    return steps


def merge_runs(
    steps: Sequence[TraceStep], kinds: Iterable[str] = ("tokens.accepted", "draft.proposed")
) -> list[TraceStep]:
    """Return the steps with each run of events of these kinds as one line: how many, and how many ms they took."""
    merged: list[TraceStep] = []
    run: list[TraceStep] = []
    wanted = frozenset(kinds)
    for step in [*steps, None]:
        if step is not None and step.kind in wanted:
            run.append(step)
            continue
        merged += _as_one(run)
        run = []
        if step is not None:
            merged.append(step)
    return merged


def _as_one(run: Sequence[TraceStep]) -> list[TraceStep]:
    if len(run) <= 2:
        return list(run)
    counts = {kind: sum(step.kind == kind for step in run) for kind in dict.fromkeys(step.kind for step in run)}
    took = run[-1].at_ms - run[0].at_ms
    what = ", ".join(f"{count} x {kind}" for kind, count in counts.items()) + f" in {took} ms; last: {run[-1].what}"
    return [TraceStep(run[0].at_ms, run[0].after_ms, "...", run[0].source, what)]


def kind_of(event: Event) -> str:
    """Return the short name of an event: `job.started` for `twd.v1.job.started`."""
    return ROUTE_OF[type(event)].tag.split(".", 2)[2]


def describe(event: Event) -> str:
    """Return one line about an event, without any prompt or answer text."""
    describer = _DESCRIBERS.get(type(event))
    return describer(event) if describer else _fields(event)


def _fields(event: Event) -> str:
    own = (name for name in event.__struct_fields__ if name not in Event.__struct_fields__)
    shown = {name: getattr(event, name) for name in own}
    return " ".join(
        f"{name}={value}" for name, value in shown.items() if value and isinstance(value, str | int | float)
    )


def _submitted(e: JobSubmitted) -> str:
    again = f", attempt {e.attempt} from token {len(e.resume)}" if e.attempt > 1 else ""
    return f"{e.job} for {e.model} by {e.owner}{again}"


def _started(e: JobStarted) -> str:
    read = f"{count(e.prompt_tokens, 'prompt token')}, {e.cached_tokens} of them cached"
    return f"{read}, seed {e.seed}, attempt {e.attempt}"


def _accepted(e: TokensAccepted) -> str:
    checked = f", {e.taken} of {e.checked} guesses taken" if e.checked else ""
    return f"{count(len(e.tokens), 'token')} from {e.index}{checked}"


def _proposed(e: DraftProposed) -> str:
    return f"{count(len(e.tokens), 'guess', 'guesses')} at {e.at} by {e.drafter}{'' if e.more else ', and rests'}"


def _finished(e: JobFinished) -> str:
    s = e.stats
    speed = f", {s.completion_tokens / s.decode_ms * 1000:.1f} tokens/s" if s.decode_ms else ""
    times = f"queued {s.queued_ms:.0f} ms, prefill {s.prefill_ms:.0f} ms, decode {s.decode_ms:.0f} ms"
    made = f"{count(s.completion_tokens, 'token')} in {count(s.passes, 'pass', 'passes')}"
    return f"{e.reason}: {made}, {s.taken} of {s.checked} guesses taken; {times}{speed}"


def _failed(e: JobFailed) -> str:
    return f"{e.failure.code}: {e.failure.message}"


def _exited(e: ServiceExited) -> str:
    retry = "" if e.retry_in_ms < 0 else f", again in {e.retry_in_ms} ms" if e.retry_in_ms else ", again at once"
    return f"{e.service} (pid {e.pid}) ended with {e.exit_code}, {count(e.restarts, 'restart')} before{retry}"


def _checked(e: DrafterChecked) -> str:
    verdict = "pays" if e.pays else f"will not pay: {e.advice}"
    return f"{e.drafter} for {e.target}: {e.agreement:.0%} of {e.compared} agree; {verdict}"


def _measured(e: ModelMeasured) -> str:
    found = "exact" if e.exactness.exact else f"{e.exactness.flipped} of {e.exactness.compared} choices differ"
    return f"{e.model}: {found} with {e.exactness.settings}"


def _judged(e: AnswerJudged) -> str:
    judged, cost = e.judged, e.cost
    who = f" of {judged.member}" if judged.member else ""
    kept = f", {count(judged.kept, 'token')} of it stand" if judged.kept else ""
    unlike = f", {judged.unlike} unlike the target's own" if judged.unlike else ""
    why = f" ({judged.why})" if judged.why else ""
    exact = "" if cost.exact_ms is None else f" instead of {cost.exact_ms:.0f}"
    return f"{judged.verdict}{who}{kept}{unlike}; {cost.target_ms:.0f} ms of the target{exact}{why}"


def _audited(e: AnswerAudited) -> str:
    found = "wrong" if e.wrong else "right"
    return f"{e.member} was {found}; {e.errors} of {e.audits} wrong so far, {e.low:.1%} to {e.high:.1%}"


_DESCRIBERS: dict[type[Event], Callable[[Any], str]] = {
    JobSubmitted: _submitted,
    JobStarted: _started,
    TokensAccepted: _accepted,
    JobFinished: _finished,
    JobFailed: _failed,
    JobCancelled: lambda e: e.reason or "its owner no longer wants it",
    SessionOpened: lambda e: f"{e.session} of {e.model} on {e.node}, {count(e.credit, 'token')} of credit",
    DraftProposed: _proposed,
    DraftGranted: lambda e: f"{e.drafter} may run {count(e.credit, 'token')} ahead",
    DrafterAttached: lambda e: f"{e.drafter} drafts with {e.model}, {e.token_ms:g} ms a token",
    DrafterChecked: _checked,
    AnswerJudged: _judged,
    AnswerAudited: _audited,
    ModeClosed: lambda e: f"{e.model} is exact from now on: {e.why}",
    TokensAgreed: lambda e: f"{count(len(e.tokens), 'token')} from {e.at} on, {e.votes} of {e.asked} votes",
    ModelLoading: lambda e: f"{e.model} on {e.node}: {e.stage} {e.progress:.0%}",
    ModelReady: lambda e: f"{e.facts.model} on {e.node} after {e.load_ms} ms",
    ModelMeasured: _measured,
    ModelFailed: lambda e: f"{e.model} on {e.node}: {e.failure.message}",
    ModelUnloaded: lambda e: f"{e.model} on {e.node}: {e.reason}",
    ServiceStarted: lambda e: f"{e.service} on {e.node}, pid {e.pid}",
    ServiceStopped: lambda e: f"{e.service} on {e.node}: {e.reason}",
    ServiceFaulted: lambda e: f"{e.service} on {e.node} during {e.during}: {e.failure.message}",
    ServiceExited: _exited,
    MessageDropped: lambda e: f"{e.count} on {e.subject} ({e.policy})",
    MessageRejected: lambda e: f"on {e.subject}, {e.size_bytes} bytes, {e.repeated} times: {e.reason}",
}
