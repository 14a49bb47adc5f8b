"""Finds tool calls in what a model writes, as it writes, in whichever of the known formats."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from twd.engine.tool_arguments import argument, as_arguments
from twd.engine.tool_loose import loose_object
from twd.engine.tool_reader import Beginnings, Deciding, Finding, NotACall, Reader, Steps, TextEnded

_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("id", "type", "call_id")
_CALL_KEYS = ("name", "function", *_ARGUMENT_KEYS, *_OTHER_KEYS)
_NAME = re.compile(r"[\w.\-]{1,128}")
_FENCE = "```json"
_FUNCTION, _MISTRAL, _LOOSE = "<function=", "[TOOL_CALLS]", "<|tool_call>"


class _Tags(NamedTuple):
    """How a format writes an argument."""

    key: str
    key_end: str
    value: str
    value_end: str
    end: str
    """What stands behind all arguments, and so also where there are none."""
    attributes: bool = False
    """Whether the key is one of several attributes; then the value is written as it is, without line breaks around."""


_PARAMETERS = _Tags("<parameter=", ">", "", "</parameter>", "</function>")
_KEYED = _Tags("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "</tool_call>")
_TOLD_KINDS: dict[str, list[Any]] = {'string="true"': ["string"], 'string="false"': []}


class _Section(NamedTuple):
    """How a format writes one call of several that stand together."""

    call: str
    before_arguments: str
    call_end: str
    end: str


_DEEPSEEK = _Section("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
_KIMI = _Section(
    "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"
)
_SECTIONS = {
    "<｜tool▁calls▁begin｜>": _DEEPSEEK,
    _DEEPSEEK.call: _DEEPSEEK,
    "<|tool_calls_section_begin|>": _KIMI,
    _KIMI.call: _KIMI,
}
_KIMI_ID = re.compile(r"[\w.\-:]{1,160}")
_KIMI_NAME = re.compile(r"(?:functions\.)?([\w.\-]{1,128}?)(?::\d+)?")
_INVOKES = {"<minimax:tool_call>": "", "<｜DSML｜function_calls>": "｜DSML｜", "<｜DSML｜tool_calls>": "｜DSML｜"}
"""What begins calls that are `invoke` elements, and what the names of these elements begin with."""
_CLOSERS = {
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<tool_calls>": "</tool_calls>",
    _LOOSE: "<tool_call|>",
    "<|python_tag|>": "",
    _FUNCTION: "",
    _MISTRAL: "",
    **dict.fromkeys(_SECTIONS, ""),
    **{opener: opener.replace("<", "</") for opener in _INVOKES},
}
_OPENER = re.compile("|".join(map(re.escape, _CLOSERS)))
_OPENINGS = Beginnings(*_CLOSERS)


class ContentDelta(msgspec.Struct, frozen=True):
    """Text that is no call."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    """A call begins; calls count from 0."""

    index: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next part of a call's arguments; together they are JSON."""

    index: int
    text: str


class ThoughtDelta(msgspec.Struct, frozen=True):
    """What the model thinks before it answers."""

    text: str


Delta = ContentDelta | ToolCallStart | ToolCallArguments | ThoughtDelta


class ToolCallStream:
    """Feed it text as it comes; what it returns, in order, is calls and everything that is not a call.

    A call is told as soon as its name is known, and from then on it stays one, even if it breaks off. Bare JSON counts
    as a call only at the beginning of the text, and only with the name of an offered tool. White space around calls
    is layout and left out. `schemas` are the offered tools: the JSON schema of the arguments by name.
    """

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas
        self._reader = Reader()
        self._space = ""
        self._after_call = False
        self._deltas: list[Delta] = []
        self.calls = 0
        self._steps = self._all()
        next(self._steps)

    def feed(self, text: str) -> list[Delta]:
        """Take more text; returns what is certain by now."""
        self._reader.text += text
        next(self._steps)
        return self._certain()

    def finish(self) -> list[Delta]:
        """No more text will come; returns the rest."""
        self._reader.ended = True
        next(self._steps, None)
        if self._space:
            self._deltas.append(ContentDelta(self._space))
        return self._certain()

    def _certain(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    # -- the whole text ---------------------------------------------------------------------------

    def _all(self) -> Steps:
        try:
            yield from self._try(self._bare_calls(), 0)
            while True:
                opener = yield from self._content()
                yield from self._try(self._calls_after(opener), len(opener))
        except TextEnded:
            self._end()

    def _end(self) -> None:
        if not self._reader.committed:
            self._say(len(self._reader.text))

    def _try(self, calls: Steps, opener_length: int) -> Steps:
        """Read calls. Text that is none after all is content as far as its opener; behind that the search goes on."""
        reader, calls_before = self._reader, self.calls
        try:
            yield from calls
        except NotACall:
            if not reader.committed:
                reader.at = reader.mark
                if self.calls == calls_before:
                    reader.at = min(reader.mark + opener_length, len(reader.text))
                    self._say(reader.at)
        if reader.committed:
            self._close()

    def _content(self) -> Finding:
        """Say everything up to the next opener; returns that, with the mark before and the position behind it."""
        reader = self._reader
        while True:
            found = _OPENER.search(reader.text, reader.at)
            if found:
                self._say(found.start())
                reader.at = found.end()
                return found[0]
            self._say(len(reader.text) - _OPENINGS.at_end(reader.text[reader.mark :]))
            reader.at = reader.mark
            reader.forget()
            yield from reader.more()

    def _say(self, end: int) -> None:
        """Everything from the mark to here is content. White space waits: it is layout if a call follows."""
        text = self._space + self._reader.text[self._reader.mark : end]
        if self._after_call:
            text = text.lstrip()
        self._reader.mark = end
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._deltas.append(ContentDelta(shown))
            self._after_call = False

    def _begin(self, name: str) -> None:
        """From here on it is a call."""
        self._deltas.append(ToolCallStart(self.calls, name))
        self.calls += 1
        self._space = ""
        self._reader.committed = True
        self._reader.mark = self._reader.at

    def _add(self, arguments: str) -> None:
        if arguments:
            self._deltas.append(ToolCallArguments(self.calls - 1, arguments))

    def _close(self) -> None:
        """The call is whole; what follows is undecided again."""
        self._reader.committed = False
        self._reader.mark = self._reader.at
        self._after_call = True

    # -- formats ----------------------------------------------------------------------------------

    def _calls_after(self, opener: str) -> Steps:
        if opener == _MISTRAL:
            yield from self._mistral_calls()
        elif opener == _LOOSE:
            yield from self._loose_call()
        elif opener == _FUNCTION:
            yield from self._function()
        elif opener in _SECTIONS:
            yield from self._call_of_section(_SECTIONS[opener], opener)
        elif opener in _INVOKES:
            yield from self._invoked_calls(_INVOKES[opener])
        else:
            yield from self._reader.skip_space()
            if (yield from self._reader.take(_FUNCTION)):
                yield from self._function()
            elif (yield from self._reader.peek()) in "{[":
                yield from self._json_calls(offered_only=False)
            else:
                yield from self._keyed_call()
        yield from self._closer(_CLOSERS[opener])

    def _bare_calls(self) -> Steps:
        yield from self._reader.skip_space()
        if (yield from self._reader.peek()) not in "{[":
            raise NotACall
        yield from self._json_calls(offered_only=True)
        yield from self._closer("</tool_call>")

    def _mistral_calls(self) -> Steps:
        reader = self._reader
        yield from reader.skip_space()
        if (yield from reader.peek()) in "[{":
            yield from self._json_calls(offered_only=False)
            return
        name = yield from reader.word(_NAME)
        if (yield from reader.take("[CALL_ID]")):
            yield from reader.word(_NAME)
        yield from reader.take("[ARGS]")
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            raise NotACall
        yield from self._streamed_call(name)

    def _call_of_section(self, section: _Section, opener: str) -> Steps:
        """`NAME<sep>{...}`, or with a type before the name and a fence around the arguments; Kimi numbers its calls."""
        reader = self._reader
        if opener != section.call:
            yield from reader.skip_space()
            yield from reader.require(section.call)
        yield from reader.skip_space()
        name = yield from reader.word(_KIMI_ID if section is _KIMI else _NAME)
        yield from reader.skip_space()
        yield from reader.require(section.before_arguments)
        yield from reader.skip_space()
        if section is _KIMI:
            name = _name_in_id(name)
        elif (yield from reader.peek()) not in "{`":
            name = yield from reader.word(_NAME)
            yield from reader.skip_space()
        if section is _DEEPSEEK and (yield from reader.take(_FENCE)):
            yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            raise NotACall
        yield from self._streamed_call(name)
        for closer in ("```" if section is _DEEPSEEK else "", section.call_end, section.end):
            yield from self._closer(closer)

    def _invoked_calls(self, prefix: str) -> Steps:
        reader, begins = self._reader, f'<{prefix}invoke name="'
        tags = _Tags(
            f'<{prefix}parameter name="', '"', "", f"</{prefix}parameter>", f"</{prefix}invoke>", attributes=True
        )
        yield from reader.skip_space()
        yield from reader.require(begins)
        while True:
            name = yield from reader.word(_NAME)
            yield from reader.require('">')
            yield from reader.skip_space()
            yield from self._call_with_parameters(name, tags)
            yield from self._closer(tags.end)
            if not (yield from self._follows(begins)):
                break

    def _follows(self, literal: str) -> Deciding:
        """Go past the literal and the white space before it, if that is what comes."""
        reader = self._reader
        try:
            yield from reader.skip_space()
            if (yield from reader.take(literal)):
                return True
        except TextEnded:
            pass
        reader.at = reader.mark
        return False

    def _function(self) -> Steps:
        reader = self._reader
        name = yield from reader.word(_NAME)
        yield from reader.require(">")
        yield from reader.skip_space()
        if (yield from reader.peek()) == "{":
            yield from self._streamed_call(name)
        else:
            yield from self._call_with_parameters(name, _PARAMETERS)
        yield from self._closer("</function>")

    def _keyed_call(self) -> Steps:
        name = yield from self._reader.word(_NAME)
        yield from self._reader.skip_space()
        yield from self._call_with_parameters(name, _KEYED)

    def _call_with_parameters(self, name: str, tags: _Tags) -> Steps:
        """Each argument in tags of its own; which are strings is known from the tool's schema."""
        reader, separator = self._reader, "{"
        while (yield from reader.take(tags.key)):
            key = yield from reader.until(tags.key_end)
            told = _TOLD_KINDS.get((yield from reader.until(">")).strip()) if tags.attributes else None
            if separator == "{":
                self._begin(name)
            if tags.value:
                yield from reader.skip_space()
                yield from reader.take(tags.value)
            value = yield from reader.until(tags.value_end)
            value = value if tags.attributes else value.removeprefix("\n").removesuffix("\n")
            self._add(f"{separator}{json.dumps(key)}: {argument(self._schemas.get(name), key, value, told)}")
            separator = ", "
            yield from reader.skip_space()
        if separator == "{":
            yield from reader.require(tags.end)
            self._require_offered(name, offered_only=tags is _KEYED)  # any word may stand between its marks
            self._begin(name)
        self._add("{}" if separator == "{" else "}")
        self._close()

    # -- calls as loose objects --------------------------------------------------------------------

    def _loose_call(self) -> Steps:
        """`call:NAME{key:<|"|>text<|"|>,other:[1,2]}`: keys are bare, and strings have quotes of their own."""
        yield from self._reader.require("call:")
        name = yield from self._reader.word(_NAME)
        yield from self._reader.require("{")
        arguments = yield from loose_object(self._reader)
        self._begin(name)
        self._add(json.dumps(arguments, ensure_ascii=False))
        self._close()

    # -- calls as JSON ----------------------------------------------------------------------------

    def _json_calls(self, offered_only: bool) -> Steps:
        """One call, or several: in a list, or one after the other."""
        listed = yield from self._reader.take("[")
        while True:
            yield from self._reader.skip_space()
            yield from self._call_object(offered_only)
            if not (yield from self._another_follows()):
                break
        if listed:
            yield from self._closer("]")

    def _another_follows(self) -> Deciding:
        """Go to the next object, if that is what comes."""
        reader = self._reader
        try:
            yield from reader.skip_space()
            if (yield from reader.peek()) in ",;":
                reader.at += 1
                yield from reader.skip_space()
            if (yield from reader.peek()) == "{":
                return True
        except TextEnded:
            pass
        reader.at = reader.mark
        return False

    def _call_object(self, offered_only: bool) -> Steps:
        yield from self._reader.require("{")
        yield from self._call_members(offered_only)
        self._close()

    def _call_members(self, offered_only: bool, inner: bool = False) -> Steps:
        """Everything after the brace, in any order of keys; a call may stand one level deeper, under `function`."""
        reader, name, arguments = self._reader, "", ""
        while not (yield from self._reader.object_ends()):
            key = yield from reader.string()
            if not reader.committed and (key not in _CALL_KEYS or (inner and key == "function")):
                raise NotACall
            yield from reader.skip_space()
            yield from reader.require(":")
            yield from reader.skip_space()
            first = yield from reader.peek()
            if reader.committed or key in _OTHER_KEYS:
                yield from reader.value()
            elif key == "name":
                name = yield from reader.string()
            elif key == "function":
                yield from reader.require("{")
                yield from self._call_members(offered_only, inner=True)
            elif name and first == "{":
                self._require_offered(name, offered_only)
                yield from self._stream_arguments(name)
            else:
                arguments = as_arguments((yield from reader.value()))
        if not reader.committed:
            self._require_offered(name, offered_only)
            self._begin(name)
            self._add(arguments or "{}")

    def _require_offered(self, name: str, offered_only: bool) -> None:
        if not name or (offered_only and name not in self._schemas):
            raise NotACall

    # -- pieces of a call -------------------------------------------------------------------------

    def _streamed_call(self, name: str) -> Steps:
        yield from self._stream_arguments(name)
        self._close()

    def _stream_arguments(self, name: str) -> Steps:
        """Tell the call and pass its arguments on as they come."""
        self._begin(name)
        yield from self._reader.skip_value(self._pass_on)
        self._pass_on()

    def _pass_on(self) -> None:
        reader = self._reader
        self._add(reader.text[reader.mark : reader.at])
        reader.mark = reader.at
        reader.forget()

    def _closer(self, closer: str) -> Steps:
        """Go past what closes calls, if it comes; the text may also end within it."""
        reader = self._reader
        if not closer:
            return
        try:
            yield from reader.skip_space()
            if (yield from reader.take(closer)):
                reader.mark = reader.at
        except TextEnded:
            reader.mark = len(reader.text)
            raise
        reader.at = reader.mark


def _name_in_id(written: str) -> str:
    """The function that a call of Kimi's is about; the id says it, and the call's number."""
    named = _KIMI_NAME.fullmatch(written)
    if named is None:
        raise NotACall
    return named[1]
