"""Turns a prompt into tokens with the model's chat template; user text never becomes a control token."""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol, Self

import msgspec

from twd.chat.control_tokens import ControlStrings
from twd.chat.messages import (
    Hide,
    Message,
    TemplateAbilities,
    adapt,
    as_dicts,
    fold_system,
    hide_deeply,
    merge_neighbours,
    one_call_a_turn,
    shorten_ids,
)
from twd.chat.template_process import ConfinedTemplate, begin_worker, end_begun_worker
from twd.chat.template_sandbox import SandboxedTemplate
from twd.chat.thoughts import ANSWER_CHANNEL, CHANNELS, detect_thoughts
from twd.chat.tool_calls.formats import ToolFormat, detect_format
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Prompt, Thoughts

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message.role ~ ': ' ~ message.content ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
_PLAIN_STOPS = ("\nuser:", "\nsystem:")
_OWN_VARIABLES = frozenset(["messages", "tools", "bos_token", "eos_token", "strftime_now", "raise_exception"])
_APART = sys.platform != "win32"
"""Whether templates of models run in processes with limits; Windows has no such limits."""
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_REPAIRS = (shorten_ids, merge_neighbours, fold_system)


class Tokenize(Protocol):
    """The signature of `Vocab.tokenize`."""

    def __call__(self, text: str, *, parse_special: bool, add_bos: bool) -> list[int]: ...


class Template(Protocol):
    """A compiled template: `SandboxedTemplate` in this process, `ConfinedTemplate` in one with limits."""

    words: frozenset[str]
    names: frozenset[str]

    def render(self, variables: Mapping[str, Any], now: datetime) -> str: ...


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """Text to tokenize piece by piece, with special tokens parsed, so that none forms where pieces meet."""

    pieces: list[str]
    begins_with_bos: bool

    @property
    def text(self) -> str:
        """The whole prompt as text, for display."""
        return "".join(self.pieces)


class ChatVocabulary(Protocol):
    """What a template needs from a model's vocabulary."""

    @property
    def special_tokens(self) -> Mapping[str, int]: ...
    @property
    def end_tokens(self) -> Collection[int]: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    def piece(self, token: int) -> bytes: ...
    def special_text(self, token: int) -> str: ...


class ChatTemplate:
    """A model's template. Without a source: ChatML where the vocabulary has its tokens, else `role: text` lines.

    `control_strings` are the texts of the vocabulary's control tokens: user text never makes one of them.
    """

    def __init__(
        self,
        source: str,
        bos: str = "",
        eos: str = "",
        control_strings: Iterable[str] = (),
        compiled: Callable[[str], Template] = SandboxedTemplate,
    ) -> None:
        controls = list(control_strings)
        self.source = source or (CHATML if {"<|im_start|>", "<|im_end|>"} <= set(controls) else PLAIN)
        self.stops = _PLAIN_STOPS if self.source == PLAIN else ()
        self._bos, self._eos = bos, eos
        self._controls = ControlStrings(controls)
        self._template = compiled(self.source)
        self._harmless = self._controls.harmless(self._template.words)

    @staticmethod
    def begin(source: str) -> None:
        """Begin what will render this template, long before `of` needs it; does nothing where that runs here."""
        if source and _APART:
            begin_worker()

    @staticmethod
    def give_up() -> None:
        """End what was begun, because the load failed."""
        end_begun_worker()

    @classmethod
    def of(cls, source: str, vocab: ChatVocabulary) -> Self:
        """The template for a loaded vocabulary. One that came with a model file may be hostile: it runs apart."""
        special, ends = vocab.special_tokens.items(), vocab.end_tokens
        control = [text for text, token in special if token in ends or not vocab.piece(token)]
        bos, eos = ("" if token is None else vocab.special_text(token) for token in (vocab.bos, vocab.eos))
        made = cls(source, bos, eos, control, ConfinedTemplate if source and _APART else SandboxedTemplate)
        made.abilities  # noqa: B018 - found out here, on the thread that loads: it may take seconds
        return made

    @cached_property
    def abilities(self) -> TemplateAbilities:
        """What the template can do by itself: found out by rendering small conversations, once."""
        return TemplateAbilities.of(self._try, self._template.words)

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How the model was taught to write calls; without a template for them, as the text that stands in says."""
        return detect_format(self.source) if self.abilities.tools else ToolFormat.HERMES

    @cached_property
    def call_markers(self) -> tuple[str, ...]:
        """Strings around calls that may be control tokens: as the model is told to write them, and as it was taught,
        which its template may know of the calls before, though it has no place for tools."""
        return tuple(dict.fromkeys([*self.tool_format.markers, *detect_format(self.source).markers]))

    @cached_property
    def thoughts(self) -> Thoughts | None:
        """The marks of the model's thoughts."""
        return detect_thoughts(self.source)

    def render(self, prompt: Prompt, now: datetime) -> RenderedPrompt:
        """The prompt as text. `now` is for templates that write the date: give one time to all attempts of a job."""
        if prompt.text is not None:
            return RenderedPrompt(self._controls.pieces(self._controls.hide(prompt.text)), begins_with_bos=False)
        if not prompt.messages:
            raise TwdError(FailureCode.BAD_REQUEST, "Give at least one message.", "messages")
        try:
            marked = self._marked(prompt, now)
        except RecursionError as error:
            raise TwdError(FailureCode.BAD_REQUEST, "Tools or tool arguments are nested too deeply.") from error
        begins_with_bos = bool(self._bos) and marked.startswith(self._bos)
        return RenderedPrompt(self._controls.pieces(marked), begins_with_bos)

    def _marked(self, prompt: Prompt, now: datetime) -> str:
        """The rendered conversation with stand-ins in the user's text.

        Full stand-ins show exactly whose each character is, but hide the text from a template that looks into it.
        So the text with its own letters is taken, unless the template then writes other control strings: what there
        are more of could only come from the user.
        """
        refusal: TwdError | None = None
        for messages in self._shapes(prompt):
            try:
                readable = self._text(messages, prompt, self._controls.hide_whole_strings, now)
            except TwdError as error:
                refusal = refusal or error
                continue
            hidden = self._text(messages, prompt, self._controls.hide, now)
            own_strings = self._controls.own_strings
            return readable if own_strings(readable) == own_strings(hidden) else hidden
        assert refusal is not None
        raise refusal

    def _shapes(self, prompt: Prompt) -> Iterator[list[ChatMessage]]:
        """The conversation as given, then, for templates that refuse it, ever more simplified."""
        given = adapt(prompt.messages or [], prompt.tools, self.abilities)
        apart = one_call_a_turn(given)
        for messages in (given, apart) if apart != given else (given,):
            yield messages
            for repair in _REPAIRS:
                repaired = repair(messages)
                if repaired != messages:
                    messages = repaired
                    yield messages

    def _text(self, messages: list[ChatMessage], prompt: Prompt, hide: Hide, now: datetime) -> str:
        def hide_but_words(text: str) -> str:
            return text if text in self._harmless else hide(text)

        tools = [msgspec.json.decode(tool) for tool in prompt.tools] if self.abilities.tools else []
        text = self._render(
            as_dicts(messages, self.abilities, hide_but_words),
            hide_deeply(tools, hide_but_words),
            now,
            hide_deeply(self._args(prompt), hide_but_words),
        )
        if prompt.prefill and self.thoughts == CHANNELS:
            text += ANSWER_CHANNEL
        return text + hide(prompt.prefill)

    def _args(self, prompt: Prompt) -> dict[str, Any]:
        own = _OWN_VARIABLES & prompt.template_args.keys()
        if own:
            message = f"'{min(own)}' is not a template argument; the template gets it from the model or the request."
            raise TwdError(FailureCode.BAD_REQUEST, message, "chat_template_kwargs")
        return dict(prompt.template_args)

    def _try(self, messages: list[Message], tools: list[Any]) -> str:
        return self._render(messages, tools, _LONG_AGO, {})

    def _render(self, messages: list[Message], tools: list[Any], now: datetime, args: dict[str, Any]) -> str:
        return self._render_with(messages, tools or self._no_tools, now, args)

    @cached_property
    def _no_tools(self) -> list[Any] | None:
        """What it takes for no tools at all: templates that were written for tools alone want a list."""
        choices: tuple[list[Any] | None, ...] = (None, [])
        for nothing in choices:
            with suppress(TwdError):
                self._render_with([{"role": "user", "content": "Hello"}], nothing, _LONG_AGO, {})
                return nothing
        return None

    def _render_with(
        self, messages: list[Message], tools: list[Any] | None, now: datetime, args: dict[str, Any]
    ) -> str:
        variables = {
            "add_generation_prompt": True,
            **(self._by_other_names(tools, now) if "tools" not in self._template.names else {}),
            **args,
            "messages": messages,
            "tools": tools,
            "bos_token": self._bos,
            "eos_token": self._eos,
        }
        return self._template.render(variables, now)

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if isinstance(self._template, ConfinedTemplate):
            self._template.close()

    @staticmethod
    def _by_other_names(tools: list[Any] | None, now: datetime) -> dict[str, Any]:
        """As templates from before there were `tools` expect them, such as Firefunction's."""
        functions = [tool["function"] for tool in tools or () if isinstance(tool, dict) and "function" in tool]
        return {
            "functions": json.dumps(functions, ensure_ascii=False, indent=4),
            "datetime": f"{now:%Y-%m-%d %H:%M:%S %Z}",
        }


def render_tokens(template: ChatTemplate, prompt: Prompt, tokenize: Tokenize, now: datetime) -> list[int]:
    """Return the prompt's tokens, with exactly one BOS if the model wants one."""
    if prompt.tokens is not None:
        return list(prompt.tokens)
    rendered = template.render(prompt, now)
    add_bos = not rendered.begins_with_bos
    first, *others = rendered.pieces or [""]
    tokens = tokenize(first, parse_special=True, add_bos=add_bos)
    for piece in others:
        tokens += tokenize(piece, parse_special=True, add_bos=False)
    return tokens
