"""Makes observations from prompts: a member answers, the judge scores, the target answers, and errors are found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from twd.gate.asking import Asker, Told
from twd.gate.calibration.kept import KeptObservations
from twd.gate.calibration.lines import Line
from twd.gate.calibration.search import Observation
from twd.gate.prompt_judge import comparison
from twd.wire.base import JobId, ModelId
from twd.wire.failures import TwdError
from twd.wire.job import (
    FinishReason,
    JobSubmitted,
    Judge,
    Prompt,
    Sampling,
    Speculation,
)

ErrorBy = Literal["check", "same", "judge"]
_PLAIN: Final = Speculation(enabled=False)


@dataclass(frozen=True, slots=True)
class Task:
    """Who judges, and what counts as an error."""

    judge: str
    sampling: Sampling
    max_tokens: int = 256
    error: ErrorBy = "check"
    arbiter: str = ""
    """The model that compares answers if `error` is "judge"; empty: the judge."""
    step_ms: float = 0.0
    """Milliseconds of the target for one token without drafts."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A prompt that gave no observation."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the prompts gave of one member, and which of them gave nothing."""

    seen: list[Observation] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


def unchecked(lines: Sequence[Line], error: ErrorBy) -> list[Failed]:
    """The prompts that have no check where checks tell what an error is."""
    without = (number for number, line in enumerate(lines, 1) if line.check is None) if error == "check" else ()
    return [Failed(number, "it has no check; give one, or --error same") for number in without]


async def observe(
    asker: Asker,
    lines: Sequence[Line],
    task: Task,
    members: Mapping[str, KeptObservations],
    tell: Callable[[int, int], None],
) -> dict[str, Observed]:
    """Ask the judge and each member all prompts of which a member's file has nothing yet."""
    without = unchecked(lines, task.error)
    passed_over = {one.line for one in without}
    found = {name: Observed(failed=list(without)) for name in members}
    for number, line in enumerate(lines, 1):
        tell(number, len(lines))
        if number not in passed_over:
            await _prompt(asker, number, line, task, members, found)
    return found


async def _prompt(
    asker: Asker,
    number: int,
    line: Line,
    task: Task,
    members: Mapping[str, KeptObservations],
    found: Mapping[str, Observed],
) -> None:
    own: Told | None = None
    for name, kept in members.items():
        try:
            seen = kept.find(line)
            if seen is None:
                own = own or await asker.run(task.judge, *_asked(line, task))
                seen = kept.add(line, await _one(asker, line, task, name, own))
            found[name].seen.append(seen)
        except TwdError as error:
            found[name].failed.append(Failed(number, str(error)))


def _asked(line: Line, task: Task) -> tuple[Prompt, Sampling, int]:
    return Prompt(messages=list(line.messages)), task.sampling, line.max_tokens or task.max_tokens


async def _one(asker: Asker, line: Line, task: Task, member: str, own: Told) -> Observation:
    asked = _asked(line, task)
    answer = await asker.run(member, *asked)
    ends = answer.finished is not None and answer.finished.reason is FinishReason.STOP
    judge = Judge(text=answer.text, ends=ends)
    scored = await asker.run(task.judge, *asked, judge=judge, speculation=_PLAIN)
    return Observation(
        conversation=line.conversation,
        gaps=tuple(scored.gaps),
        wrong=await _is_wrong(asker, line, task, answer, own),
        kind=line.kind,
        tokens=len(scored.tokens),
        read_ms=own.stats.prefill_ms,
        judge_ms=scored.ms,  # asked after its own answer, the judge has the prompt
        plain_ms=task.step_ms * own.stats.completion_tokens,
        exact_ms=own.stats.decode_ms,
    )


async def _is_wrong(asker: Asker, line: Line, task: Task, answer: Told, own: Told) -> bool:
    """Whether the member's answer is wrong and the target's own is not."""
    match task.error:
        case "same":
            return answer.text != own.text
        case "check":
            return line.check is not None and line.check.holds(own.text) and not line.check.holds(answer.text)
        case "judge":
            if answer.text == own.text:
                return False
            first = await _better(asker, task, line, own.text, answer.text)
            second = await _better(asker, task, line, answer.text, own.text)
            return first == "A" and second == "B"


async def _better(asker: Asker, task: Task, line: Line, one: str, other: str) -> str:
    """Which of two answers a model prefers: "A", "B" or another text. It is not told who wrote them."""
    asked = Prompt(messages=list(line.messages))
    job = comparison(JobSubmitted(job=JobId(""), model=ModelId(""), owner=asker.instance, prompt=asked), one, other)
    return (await asker.run(task.arbiter or task.judge, job.prompt, job.sampling, 4)).text.strip()
