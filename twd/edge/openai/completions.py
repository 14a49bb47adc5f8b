"""/v1/completions: turns a text to continue into jobs, and their events into an answer."""

from typing import cast

import msgspec

from twd.edge.answering import AnswerChoice, News, choices_of, facts_of, finish_reason, stream_end, usage_of
from twd.edge.core import MAX_CHOICES, RequestContext, grammar_of, jobs_for, limit_of
from twd.edge.http import sse
from twd.edge.http.errors import envelope
from twd.edge.openai.answers import TextChoice, TextCompletion
from twd.edge.openai.logprobs import characters_in, text_logprobs
from twd.edge.openai.types import CompletionRequest
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import JobFinished, JobStarted, JobSubmitted, Prompt, TokensAccepted

# -- the request -------------------------------------------------------------------------------


def completion_jobs(request: CompletionRequest, terms: RequestContext) -> list[JobSubmitted]:
    """The jobs of a completion request."""
    prompts = [msgspec.structs.replace(prompt, suffix=request.suffix or "") for prompt in prompts_of(request.prompt)]
    _refuse_unsupported(request, prompts)
    return jobs_for(
        request,
        prompts,
        terms,
        max_tokens=limit_of(request.max_tokens, "max_tokens", terms.house),
        grammar=grammar_of(request.grammar, None),
        logprobs=request.logprobs,
    )


def _refuse_unsupported(request: CompletionRequest, prompts: list[Prompt]) -> None:
    def refuse(field: str, why: str) -> None:
        raise TwdError(FailureCode.UNSUPPORTED, why, field)

    if request.suffix and any(prompt.text is None for prompt in prompts):
        refuse("suffix", "suffix needs the prompt as text, not as token ids")
    if request.best_of is not None and request.best_of != (request.n or 1):
        refuse("best_of", "best_of is supported only where it equals n")
    if request.echo and any(prompt.text is None for prompt in prompts):
        refuse("echo", "echo needs the prompt as text, not as token ids")
    if request.echo and request.logprobs is not None:
        refuse("echo", "echo with logprobs is not supported: the prompt's own logprobs are not computed")


def prompts_of(
    prompt: str | list[str | int | list[int]], field: str = "prompt", at_most: int = MAX_CHOICES
) -> list[Prompt]:
    """The prompts: one text, one list of token ids, or several of either kind."""
    if isinstance(prompt, str):
        return [Prompt(text=prompt)]
    kinds = {type(item) for item in prompt}
    if len(kinds) > 1:
        raise TwdError(FailureCode.BAD_REQUEST, f"{field} mixes kinds: give texts, token ids or lists of them", field)
    if kinds == {int}:
        return [Prompt(tokens=cast(list[int], prompt))]
    if len(prompt) > at_most:
        raise TwdError(FailureCode.BAD_REQUEST, f"{len(prompt)} texts in {field}; at most {at_most} are allowed", field)
    if kinds == {str}:
        return [Prompt(text=text) for text in cast(list[str], prompt)]
    return [_token_prompt(tokens, f"{field}[{i}]") for i, tokens in enumerate(cast(list[list[int]], prompt))]


def _token_prompt(tokens: list[int], field: str) -> Prompt:
    if not tokens:
        raise TwdError(FailureCode.BAD_REQUEST, f"{field} is empty", field)
    return Prompt(tokens=tokens)


# -- the answer --------------------------------------------------------------------------------


class CompletionAnswer:
    """Text completions, streamed or whole."""

    prompt_field = "prompt"

    def __init__(
        self, request: CompletionRequest, jobs: list[JobSubmitted], terms: RequestContext, created: int
    ) -> None:
        self.stream = bool(request.stream)
        self.choices = choices_of(jobs, request.n or 1)
        self._mode = terms.mode
        self._logprobs = request.logprobs is not None
        self._echo = bool(request.echo)
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._offsets = [0] * len(jobs)
        self._head = TextCompletion(
            id=f"cmpl-{jobs[0].job}", created=created, model=terms.model, system_fingerprint="", choices=[]
        )
        if self._with_usage:
            self._head.usage = None

    def hear(self, index: int, news: News) -> bytes:
        """Add an event of a choice; returns the bytes that a stream sends now."""
        choice = self.choices[index]
        choice.hear(news)
        if isinstance(news, JobStarted):
            self._head.system_fingerprint = news.fingerprint or self._head.system_fingerprint
        if not self.stream:
            return b""
        match news:
            case JobStarted():
                return self._chunk(choice, self._opening(choice)) if self._echo else b""
            case TokensAccepted():
                return self._text(choice, news)
            case JobFinished():
                return self._finish(choice)

    def _opening(self, choice: AnswerChoice) -> str:
        """What is sent before the first token: the prompt, if `echo` was requested."""
        if choice.opened or not self._echo:
            return ""
        choice.opened = True
        return choice.job.prompt.text or ""

    def _text(self, choice: AnswerChoice, news: TokensAccepted) -> bytes:
        if not news.text and not (self._logprobs and news.logprobs):
            return b""
        return self._chunk(choice, self._opening(choice) + news.text, news)

    def _finish(self, choice: AnswerChoice) -> bytes:
        if all(other.finished for other in self.choices):
            self._head.twd = facts_of(self.choices, self._mode)
        return self._chunk(choice, self._opening(choice), finish=finish_reason(choice))

    def _chunk(
        self, choice: AnswerChoice, text: str, news: TokensAccepted | None = None, finish: str | None = None
    ) -> bytes:
        piece = TextChoice(index=choice.index, text=text, finish_reason=finish)
        if news is not None and self._logprobs:
            piece.logprobs = text_logprobs(news.logprobs, self._offsets[choice.index])
            self._offsets[choice.index] += sum(map(characters_in, news.logprobs))
        self._head.choices = [piece]
        return sse.event(self._head)

    def end(self) -> bytes:
        """The last bytes of a stream that succeeded."""
        return stream_end(self._head, self.choices, with_usage=self._with_usage)

    def broken(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed after its beginning."""
        return sse.event(envelope(failure)) + sse.DONE

    def whole(self) -> TextCompletion:
        """The complete answer."""
        self._head.choices = [self._whole_choice(choice) for choice in self.choices]
        self._head.usage = usage_of(self.choices)
        self._head.twd = facts_of(self.choices, self._mode)
        return self._head

    def _whole_choice(self, choice: AnswerChoice) -> TextChoice:
        prompt = (choice.job.prompt.text or "") if self._echo else ""
        return TextChoice(
            index=choice.index,
            text=prompt + choice.content,
            logprobs=text_logprobs(choice.logprobs, 0) if self._logprobs else None,
            finish_reason=finish_reason(choice),
        )
