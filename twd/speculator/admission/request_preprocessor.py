"""Turns a job into what the core needs: tokens, a sampler, a seed. Every refusal because of its content happens
here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from msgspec.structs import replace

from twd.chat.template import ChatTemplate, render_tokens
from twd.chat.thoughts import ANSWER_CHANNEL, CHANNELS, behind_thought, markers_of, thoughts_after
from twd.chat.tool_calls.formats import showing_markers, usual_calls
from twd.decoding.window import Report, Sampler
from twd.drafting.continuation import KnownContinuation
from twd.drafting.prediction import Prediction
from twd.engine.vocab import Vocab
from twd.settings.model import ModelConfig
from twd.settings.paths import path_of
from twd.speculator.admission.truncation import Turns, left_out_first, without
from twd.speculator.core.session import PreparedRequest
from twd.wire.base import SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Grammar, JobSubmitted, Prompt, Sampling, Thoughts

QUICK_CHARACTERS = 4096
"""A text of up to this many characters is prepared in about a millisecond, so waking a thread does not pay."""
CALLS_MAX = 32_768
"""Most characters of the tools' grammar: for more it would take long to prepare the drafts of calls."""
MARK_TOKENS_MAX = 32
"""Most tokens of a mark around thoughts, with the white space behind it."""
ROOM_PART = 8
"""Where turns must be left out and the job names no length of the answer, this part of the context is kept for it."""


def is_quick(job: JobSubmitted) -> bool:
    """Returns whether preparing a job takes almost no time: no grammar to compile, no chat template to run, a short
    text.

    A template may be hostile, or slow for some conversations only.
    """
    if job.grammar is not None or job.prompt.messages is not None or job.prompt.tools:
        return False
    return characters_of(job) <= QUICK_CHARACTERS


def characters_of(job: JobSubmitted) -> int:
    """Returns how many characters there are to read in a job; a token counts as a character."""
    prompt = job.prompt
    said = sum(_length_of(message) for message in prompt.messages or ())
    beside = sum(len(tool) for tool in prompt.tools) + len(job.grammar.text if job.grammar else "")
    texts = len(prompt.text or "") + len(prompt.prefill) + len(prompt.suffix) + len(job.speculation.prediction)
    return said + beside + texts + len(prompt.tokens or ()) + len(job.resume)


def _length_of(message: ChatMessage) -> int:
    calls = sum(len(call.arguments) for call in message.tool_calls)
    return len(message.content) + len(message.thoughts) + calls


def given_template(model: ModelConfig) -> str:
    """Returns the template that the settings name instead of the model's own; empty: they name none."""
    if not model.chat_template:
        return ""
    path = path_of(model.chat_template)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        message = f"the chat template {path} cannot be read: {reason}; mend models.NAME.chat_template"
        raise TwdError(FailureCode.MODEL_LOAD, message, "chat_template") from None


class MakesSamplers(Protocol):
    """Makes the samplers of sessions."""

    def sampler(
        self,
        sampling: Sampling,
        seed: int,
        *,
        prompt_len: int,
        grammar: Grammar | None = None,
        ignore_eos: bool = False,
    ) -> Sampler:
        """Returns the sampler of a session; raises TwdError where the job asks for something impossible."""
        ...

    def ahead(self, grammar: Grammar, *, binding: bool = True) -> KnownContinuation:
        """Returns what gives the forced tokens of a grammar; or the tokens it would force, where it is not binding."""
        ...

    def reporter(self, top: int) -> Report:
        """Returns what reports log probabilities with `top` alternatives."""
        ...


@dataclass(frozen=True, slots=True)
class RequestPreprocessor:
    """Tokenizes prompts and makes samplers for one model; used from a thread of its own."""

    vocab: Vocab
    template: ChatTemplate
    samplers: MakesSamplers
    draw_seed: Callable[[], int]
    ctx_size: int

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Returns everything of a job that needs the model but not its engine."""
        tokens = self._fitting(job)
        if not tokens:
            raise TwdError(FailureCode.BAD_REQUEST, "the prompt is empty; send at least one character", "prompt")
        self._check(job.resume)
        seed = job.sampling.seed if job.sampling.seed is not None else self.draw_seed()
        piece = self._piece(job)
        thoughts, grammar = self._thoughts(job, tokens, piece), job.grammar
        if grammar is not None and not grammar.begins and thoughts is not None:  # the grammar does not allow thoughts
            if thoughts == CHANNELS:
                tokens = [*tokens, *self.vocab.tokenize(ANSWER_CHANNEL, parse_special=True, add_bos=False)]
                thoughts = None
            else:
                grammar = behind_thought(grammar, thoughts)
        return PreparedRequest(
            session=session,
            tokens=tokens,
            sampler=self.samplers.sampler(
                job.sampling, seed, prompt_len=len(tokens), grammar=grammar, ignore_eos=job.ignore_eos
            ),
            piece=piece,
            end_tokens=self.vocab.end_tokens,
            seed=seed,
            report=None if job.logprobs is None else self.samplers.reporter(job.logprobs),
            stops=self.template.stops if job.prompt.messages is not None else (),
            prediction=self._prediction(job),
            ahead=self._ahead(job, grammar),
            grammar=grammar,
            thoughts=thoughts,
            judged=None if job.judge is None else tuple(self.vocab.continued(job.judge.text)),
        )

    def _piece(self, job: JobSubmitted) -> Callable[[int], bytes]:
        """Returns the function that turns tokens into text. In a chat it also shows the marks around thoughts, and
        with tools the marks around calls."""
        marks, thoughts = self.template.call_markers if job.prompt.tools else (), self.template.thoughts
        if thoughts is not None and job.prompt.messages is not None:
            marks = (*marks, *markers_of(thoughts))
        return showing_markers(self.vocab.piece, self.vocab.special_tokens, marks) if marks else self.vocab.piece

    def _thoughts(self, job: JobSubmitted, tokens: Sequence[int], piece: Callable[[int], bytes]) -> Thoughts | None:
        """Returns how the answer may begin with thoughts."""
        marks, prefill = self.template.thoughts, job.prompt.prefill
        if marks is None or job.prompt.messages is None:
            return None
        length = MARK_TOKENS_MAX + len(prefill.encode("utf-8", "replace"))
        end = b"".join(piece(token) for token in tokens[-length:]).decode("utf-8", "replace")
        return thoughts_after(end.removesuffix(prefill), prefill, marks)

    def _prediction(self, job: JobSubmitted) -> Prediction | None:
        """Returns the text that the client expects as the answer, cut to the size of the context."""
        text = job.speculation.prediction
        if not text or not job.speculation.enabled:
            return None
        return Prediction(self.vocab.plain(text)[: self.ctx_size])

    def _ahead(self, job: JobSubmitted, grammar: Grammar | None) -> KnownContinuation | None:
        """Returns what gives the forced tokens of the job's grammar, or else of a call of its tools."""
        if not job.speculation.enabled:
            return None
        if grammar is not None:
            return self.samplers.ahead(grammar)
        if not job.prompt.tools:
            return None
        try:
            usual = usual_calls(job.prompt.tools, self.template.tool_format)
            if usual is None or len(usual.text) > CALLS_MAX:
                return None
            return self.samplers.ahead(usual, binding=False)
        except TwdError:  # no grammar can describe the input of these tools, and the job asked for none
            return None

    def _fitting(self, job: JobSubmitted) -> list[int]:
        """Returns the tokens of the prompt; if it may be truncated, with as many of its last turns as leave room for
        the answer."""
        prompt, messages = job.prompt, job.prompt.messages
        if not prompt.truncate or not messages:
            return self.tokens(prompt, job.created_ms)
        whole = self._within(self.ctx_size - (job.max_tokens or 1), prompt, job.created_ms)
        if whole is not None:
            return whole
        limit = self.ctx_size - (job.max_tokens or self.ctx_size // ROOM_PART)
        turns = left_out_first(messages)
        fewest, most = 1, len(turns)  # how many turns must be left out
        while fewest < most:
            middle = (fewest + most) // 2
            if self._within(limit, _without(prompt, messages, turns[:middle]), job.created_ms) is None:
                fewest = middle + 1
            else:
                most = middle
        return self.tokens(_without(prompt, messages, turns[:fewest]), job.created_ms)

    def _within(self, limit: int, prompt: Prompt, created_ms: int) -> list[int] | None:
        try:
            tokens = self.tokens(prompt, created_ms)
        except TwdError as error:
            if error.code is FailureCode.CONTEXT_OVERFLOW:
                return None
            raise
        return tokens if len(tokens) <= limit else None

    def tokens(self, prompt: Prompt, created_ms: int = 0) -> list[int]:
        """Returns the tokens of a prompt of any kind."""
        given = [part for part in (prompt.messages, prompt.text, prompt.tokens) if part is not None]
        if len(given) != 1:
            raise TwdError(FailureCode.BAD_REQUEST, "give messages, a text or tokens: exactly one of them", "prompt")
        self._check_size(prompt)
        created = datetime.fromtimestamp(created_ms / 1000, UTC)
        if prompt.suffix:
            return self._around_middle(prompt.text or "", prompt.suffix)
        tokens = render_tokens(self.template, prompt, self.vocab.tokenize, created)
        self._check(tokens)
        return tokens

    def _check_size(self, prompt: Prompt) -> None:
        """Refuse a prompt that cannot fit before it is rendered: rendering many megabytes takes long."""
        size = _least_bytes(prompt)
        if size > self.ctx_size and size > self.ctx_size * self.vocab.longest_piece:
            message = f"the prompt has {size} bytes, which cannot fit in the {self.ctx_size} tokens of the context"
            raise TwdError(FailureCode.CONTEXT_OVERFLOW, message, "prompt")

    def _around_middle(self, before: str, after: str) -> list[int]:
        marks = self.vocab.middle_marks
        if marks is None:
            message = "this model does not fill in the middle: it has no tokens for that"
            raise TwdError(FailureCode.UNSUPPORTED, message, "suffix")
        start = self.vocab.tokenize("", parse_special=False, add_bos=True)
        prefix, suffix = (self.vocab.plain(text) for text in (before, after))
        return [*start, marks[0], *prefix, marks[1], *suffix, marks[2]]

    def _check(self, tokens: list[int]) -> None:
        if max(tokens, default=0) >= self.vocab.size:
            message = f"a token is outside this model's vocabulary of {self.vocab.size}"
            raise TwdError(FailureCode.BAD_REQUEST, message, "prompt")


def _without(prompt: Prompt, messages: list[ChatMessage], turns: Sequence[Turns]) -> Prompt:
    return replace(prompt, messages=without(messages, turns))


def _least_bytes(prompt: Prompt) -> int:
    """Returns the bytes that are surely part of the rendered prompt. The assistant's messages do not count: templates
    leave out their thoughts."""
    said = (message.content for message in prompt.messages or () if message.role != "assistant")
    return sum(
        len(text.encode("utf-8", "replace")) for text in (*said, prompt.text or "", prompt.prefill, prompt.suffix)
    )
