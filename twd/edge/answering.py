"""The state of an answer while its jobs run: texts, counts and ends. All APIs share it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol

import msgspec
from msgspec import UNSET

from twd.chat.thoughts import CHANNELS
from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.edge.channels import ChannelStream
from twd.edge.http import sse
from twd.edge.openai.answers import (
    ChatChunk,
    CompletionDetails,
    CompletionUsage,
    DrafterFacts,
    PromptDetails,
    TextCompletion,
    TwdFacts,
)
from twd.edge.reading import AnswerParser, PlainAnswerParser, ThoughtStream, in_one
from twd.wire.failures import Failure
from twd.wire.job import (
    FinishReason,
    JobFinished,
    JobStarted,
    JobStats,
    JobSubmitted,
    Judged,
    Thoughts,
    TokenLogprob,
    TokensAccepted,
)
from twd.wire.judging import GATE

News = JobStarted | TokensAccepted | JobFinished
"""The events of a running job for its client. A failure ends the whole answer."""


@dataclass
class AnswerToolCall:
    """A tool call, as far as it has arrived."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass
class AnswerChoice:
    """One choice (one job) of an answer, as far as it has arrived."""

    index: int
    prompt: int
    job: JobSubmitted
    reader: AnswerParser = field(default_factory=PlainAnswerParser)
    started: JobStarted | None = None
    text: list[str] = field(default_factory=list)
    calls: list[AnswerToolCall] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    thought_tokens: int = 0
    apart: bool = True
    """Whether thoughts are separated from the answer."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: int = 0
    finished: JobFinished | None = None
    workers_replaced: int = 0
    lent: bool = False
    """Whether a member of a gate wrote a part of it."""
    opened: bool = False
    """Whether its stream has begun."""

    @property
    def seed(self) -> int:
        """The seed that reproduces this choice."""
        return self.job.sampling.seed or 0

    @property
    def content(self) -> str:
        """The text so far, without tool calls."""
        return "".join(self.text)

    @property
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return isinstance(self.reader, ThoughtStream | ChannelStream) and self.reader.thinking

    @property
    def thought(self) -> str:
        """The model's thoughts before the answer."""
        return "".join(self.thoughts)

    @property
    def cut(self) -> bool:
        """Whether it ended at its token limit."""
        return self.finished is not None and self.finished.reason is FinishReason.LENGTH

    @property
    def prompt_counts(self) -> tuple[int, int]:
        """The tokens of its prompt, and how many of them were cached; a relay knows both only at the end."""
        told: JobStarted | JobStats | None = self.started
        if self.finished is not None and not (self.started and self.started.prompt_tokens):
            told = self.finished.stats
        return (told.prompt_tokens, told.cached_tokens) if told is not None else (0, 0)

    @property
    def completion_tokens(self) -> int:
        """The tokens of its text, including tool calls."""
        return self.finished.stats.completion_tokens if self.finished else self.tokens

    def hear(self, news: News) -> list[Delta]:
        """Add an event of its job; returns the deltas for the client."""
        match news:
            case JobStarted():
                if self.started is None and self.apart and news.thoughts is not None:
                    self.reader = self._apart(news.thoughts)
                self.started = self.started or news
                return []
            case TokensAccepted():
                self.logprobs += news.logprobs
                self.lent = self.lent or (bool(news.drafter) and news.source.startswith("gate."))
                self.tokens += _count(news)
                return self._keep(self._read(news))
            case JobFinished():
                self.finished = news
                return self._keep(self.reader.finish())

    def _apart(self, thoughts: Thoughts) -> ThoughtStream | ChannelStream:
        if thoughts == CHANNELS:
            return ChannelStream(calls=bool(self.job.prompt.tools))
        return ThoughtStream(thoughts, self.reader)

    def _read(self, news: TokensAccepted) -> list[Delta]:
        """The deltas of a piece of text; tokens of thoughts are counted."""
        deltas: list[Delta] = []
        for count, text in _parts(news):
            thinking = self.thinking
            deltas += self.reader.feed(text)
            self.thought_tokens += count if thinking or self.thinking else 0
        return in_one(deltas) if news.lengths else deltas

    def _keep(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    self.text.append(text)
                case ThoughtDelta(text):
                    self.thoughts.append(text)
                case ToolCallStart(index, name):
                    self.calls.append(AnswerToolCall(f"call_{self.job.job.removeprefix('job-')}_{index}", name))
                case ToolCallArguments(index, text):
                    self.calls[index].arguments.append(text)
        return deltas


def _count(news: TokensAccepted) -> int:
    """How many tokens a piece counts as; a piece of text without token ids counts as one."""
    return len(news.tokens) or int(news.text != "")


def _parts(news: TokensAccepted) -> list[tuple[int, str]]:
    """The number of tokens and the text, for each token if the lengths are known, else for the whole piece."""
    if len(news.lengths) != len(news.tokens) or sum(news.lengths) != len(news.text):
        return [(_count(news), news.text)]
    ends = list(accumulate(news.lengths, initial=0))
    return [(1, news.text[start:end]) for start, end in pairwise(ends)]


class ApiAnswer(Protocol):
    """An answer of one API. A stream sends the bytes of `hear` and `end`; without a stream, `whole` is
    read at the end.
    """

    stream: bool
    choices: list[AnswerChoice]
    prompt_field: str
    """The name of the prompt's field in its requests, for errors such as a prompt that is too long."""

    def hear(self, index: int, news: News) -> bytes:
        """Add an event of a choice; returns the bytes that a stream sends now."""

    def end(self) -> bytes:
        """The last bytes of a stream that succeeded."""

    def broken(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed after its beginning."""

    def whole(self) -> msgspec.Struct:
        """The complete answer."""


def choices_of(
    jobs: list[JobSubmitted],
    n: int = 1,
    new_reader: Callable[[], AnswerParser] = PlainAnswerParser,
    *,
    apart: bool = True,
) -> list[AnswerChoice]:
    """The choices of jobs that are ordered by prompt, `n` for each prompt. `apart`: separate thoughts
    from the answer.
    """
    return [
        AnswerChoice(index=i, prompt=i // n, job=job, reader=new_reader(), apart=apart) for i, job in enumerate(jobs)
    ]


def stream_end(head: ChatChunk | TextCompletion, choices: Iterable[AnswerChoice], *, with_usage: bool) -> bytes:
    """The last bytes of a stream that succeeded: the usage if it was requested, then the end mark."""
    if not with_usage:
        return sse.DONE
    head.choices = []
    head.usage = usage_of(choices)
    return sse.event(head) + sse.DONE


def finish_reason(choice: AnswerChoice) -> str:
    """Why a choice ended, as OpenAI's `finish_reason`."""
    if choice.cut:
        return "length"
    return "tool_calls" if choice.calls else "stop"


def usage_of(choices: Iterable[AnswerChoice]) -> CompletionUsage:
    """The tokens of all choices; a prompt counts once, even with several choices."""
    prompts: dict[int, tuple[int, int]] = {}
    completion = predicted = foretold = thought = 0
    for choice in choices:
        completion += choice.completion_tokens
        thought += choice.thought_tokens
        if choice.finished is not None:
            predicted += choice.finished.stats.predicted
            foretold += choice.finished.stats.foretold
        if choice.started is not None and choice.prompt not in prompts:
            prompts[choice.prompt] = choice.prompt_counts
    prompt = sum(tokens for tokens, _ in prompts.values())
    details = CompletionDetails(
        reasoning_tokens=thought,
        accepted_prediction_tokens=foretold,
        rejected_prediction_tokens=max(0, predicted - foretold),
    )
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=sum(cached for _, cached in prompts.values())),
        completion_tokens_details=details if predicted or thought else UNSET,
    )


def facts_of(choices: list[AnswerChoice], mode: str) -> TwdFacts:
    """The speculation figures, summed over all choices."""
    first = choices[0]
    if mode == "gate" and not first.job.model.endswith(GATE):
        mode = "speculate"  # an answer that must be exact was submitted to the model itself
    if mode == "consensus" and not first.job.speculation.consensus:
        mode = "speculate"
    facts = TwdFacts(job=first.job.job, mode=mode, seed=first.seed)
    if len(choices) > 1:
        facts.jobs = [choice.job.job for choice in choices]
    for choice in choices:
        _add(facts, choice)
    tokens = sum(choice.completion_tokens for choice in choices)
    facts.acceptance = round(facts.taken / facts.checked, 4) if facts.checked else None
    facts.tokens_per_pass = round(tokens / facts.passes, 3) if facts.passes else None
    facts.tokens_per_second = round(1000 * tokens / facts.decode_ms, 2) if facts.decode_ms else None
    return facts


def _add(facts: TwdFacts, choice: AnswerChoice) -> None:
    facts.workers_replaced += choice.workers_replaced
    if choice.finished is None:
        return
    if choice.finished.judged is not None:
        _add_judged(facts, choice.finished.judged)
    elif choice.job.model.endswith(GATE):  # the gate's verdict on that part is lost
        facts.approximate = facts.approximate or choice.lent
        facts.why = "the gate was lost; the model went on itself"
    _add_stats(facts, choice.finished.stats)


def _add_stats(facts: TwdFacts, stats: JobStats) -> None:
    facts.checked += stats.checked
    facts.taken += stats.taken
    facts.passes += stats.passes
    facts.queued_ms = round(max(facts.queued_ms, stats.queued_ms), 2)
    facts.prefill_ms = round(max(facts.prefill_ms, stats.prefill_ms), 2)
    facts.decode_ms = round(max(facts.decode_ms, stats.decode_ms), 2)
    facts.drafters = facts.drafters + [
        DrafterFacts(drafter=share.drafter, checked=share.checked, taken=share.taken) for share in stats.drafters
    ]


def _add_judged(facts: TwdFacts, judged: Judged) -> None:
    """Add a verdict. With several choices, the last one's verdict is shown; `approximate` is true if any choice is
    approximate.
    """
    facts.approximate = facts.approximate or judged.approximate
    facts.verdict = judged.verdict.value
    facts.unlike = (facts.unlike or 0) + judged.unlike
    facts.member = judged.member or UNSET
    facts.score = UNSET if judged.score is None else judged.score
    facts.why = judged.why or UNSET


def fact_headers(facts: TwdFacts) -> dict[str, str]:
    """The same facts as `x-twd-*` headers."""
    headers = {"x-twd-job": facts.job, "x-twd-mode": facts.mode, "x-twd-seed": str(facts.seed)}
    if facts.acceptance is not None:
        headers["x-twd-acceptance"] = f"{facts.acceptance:g}"
    if facts.verdict is not UNSET:
        headers |= {"x-twd-approximate": str(facts.approximate).lower(), "x-twd-verdict": str(facts.verdict)}
        headers |= {
            f"x-twd-{name}": str(told) for name in ("member", "score", "unlike") if (told := getattr(facts, name))
        }
    if facts.tokens_per_pass is not None:
        headers["x-twd-tokens-per-pass"] = f"{facts.tokens_per_pass:g}"
    return headers
