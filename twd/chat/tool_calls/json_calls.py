"""Reads calls whose arguments are written as JSON."""

import re
from typing import NamedTuple

from twd.chat.tool_calls.arguments import as_arguments
from twd.chat.tool_calls.parse_events import NAME, CallParser
from twd.chat.tool_calls.reader import Deciding, NotACall, Steps

_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("id", "type", "call_id", "tool_call_id")
_CALL_KEYS = ("function", *_NAME_KEYS, *_ARGUMENT_KEYS, *_OTHER_KEYS)
_FENCE, _FENCE_END = "```json", "```"


class JsonCallLayout(NamedTuple):
    """How a format writes one call of several that stand together."""

    call: str
    before_arguments: str
    call_end: str
    end: str


DEEPSEEK = JsonCallLayout("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
KIMI = JsonCallLayout(
    "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"
)
SOLAR = JsonCallLayout("<|tool_call:begin|>", "<|tool_call:args|>", "<|tool_call:end|>", "<|calls|>")
_KIMI_ID = re.compile(r"[\w.\-:]{1,160}")
_KIMI_NAME = re.compile(r"(?:functions\.)?([\w.\-]{1,128}?)(?::\d+)?")


def json_calls(telling: CallParser, *, offered_only: bool = False) -> Steps:
    """Parse one call, or several: in a list, or one after the other."""
    listed = yield from telling.reader.take("[")
    while True:
        yield from telling.reader.skip_space()
        yield from _call_object(telling, offered_only)
        if not (yield from _another_follows(telling)):
            break
    if listed:
        yield from telling.closer("]")


def bare_calls(telling: CallParser) -> Steps:
    """What may stand at the beginning of a text without any mark."""
    yield from telling.reader.skip_space()
    if (yield from telling.reader.peek()) not in "{[":
        raise NotACall
    yield from json_calls(telling, offered_only=True)
    yield from telling.closer("</tool_call>")


def fenced_calls(telling: CallParser) -> Steps:
    """As a block of code behind the word that announces them; it may announce other blocks, too."""
    yield from telling.reader.skip_space()
    yield from telling.reader.require(_FENCE)
    yield from telling.reader.skip_space()
    yield from json_calls(telling, offered_only=True)
    yield from telling.closer(_FENCE_END)


def mistral_calls(telling: CallParser) -> Steps:
    """Parse a list of calls, or a name and its arguments."""
    reader = telling.reader
    yield from reader.skip_space()
    if (yield from reader.peek()) in "[{":
        yield from json_calls(telling)
        return
    name = yield from reader.word(NAME)
    if (yield from reader.take("[CALL_ID]")):
        yield from reader.word(NAME)
    yield from reader.take("[ARGS]")
    yield from reader.skip_space()
    yield from telling.streamed(name)


def calls_by_name(telling: CallParser) -> Steps:
    """`[{NAME: {...}}]`"""
    reader = telling.reader
    yield from reader.skip_space()
    listed = yield from reader.take("[")
    while True:
        yield from reader.skip_space()
        yield from reader.require("{")
        yield from reader.skip_space()
        name = yield from reader.string()
        yield from reader.skip_space()
        yield from reader.require(":")
        yield from reader.skip_space()
        yield from telling.streamed(name)
        yield from telling.closer("}")
        if not (yield from _another_follows(telling)):
            break
    if listed:
        yield from telling.closer("]")


def call_of_section(telling: CallParser, section: JsonCallLayout, opener: str) -> Steps:
    """`NAME<sep>{...}`, or with a type before the name and a fence around the arguments; Kimi numbers its calls, and
    Solar writes ids before the names."""
    reader = telling.reader
    if opener != section.call:
        yield from reader.skip_space()
        yield from reader.require(section.call)
    yield from reader.skip_space()
    name = yield from reader.word(_KIMI_ID if section is KIMI else NAME)
    if section is SOLAR:
        yield from reader.require("<|tool_call:name|>")
        name = yield from reader.word(NAME)
    yield from reader.skip_space()
    yield from reader.require(section.before_arguments)
    yield from reader.skip_space()
    if section is KIMI:
        name = _name_in_id(name)
    elif section is DEEPSEEK and (yield from reader.peek()) not in "{`":
        name = yield from reader.word(NAME)
        yield from reader.skip_space()
    if section is DEEPSEEK and (yield from reader.take(_FENCE)):
        yield from reader.skip_space()
    yield from telling.streamed(name)
    yield from telling.closer(_FENCE_END if section is DEEPSEEK else "", section.call_end, section.end)


def _name_in_id(written: str) -> str:
    """The function that a call of Kimi's is about; the id says it, and the call's number."""
    named = _KIMI_NAME.fullmatch(written)
    if named is None:
        raise NotACall
    return named[1]


def _another_follows(telling: CallParser) -> Deciding:
    """Go to the next object, if that is what comes."""
    reader = telling.reader
    for separator in (",", ";", ""):
        if (yield from telling.follows(separator)):
            if (yield from telling.follows("{")):
                reader.at -= 1
                return True
            return False
    return False


def _call_object(telling: CallParser, offered_only: bool) -> Steps:
    yield from telling.reader.require("{")
    yield from _call_members(telling, offered_only)
    telling.close()


def _call_members(telling: CallParser, offered_only: bool, inner: bool = False) -> Steps:
    """Everything after the brace, in any order of keys; a call may stand one level deeper, under `function`."""
    reader, name, arguments = telling.reader, "", ""
    while not (yield from reader.object_ends()):
        key = yield from reader.string()
        if not reader.committed and (key not in _CALL_KEYS or (inner and key == "function")):
            raise NotACall
        yield from reader.skip_space()
        yield from reader.require(":")
        yield from reader.skip_space()
        first = yield from reader.peek()
        if reader.committed or key in _OTHER_KEYS:
            yield from reader.value()
        elif key in _NAME_KEYS:
            name = yield from reader.string()
        elif key == "function":
            yield from reader.require("{")
            yield from _call_members(telling, offered_only, inner=True)
        elif name and first == "{":
            _require_named(telling, name, offered_only)
            yield from telling.stream_arguments(name)
        else:
            arguments = as_arguments((yield from reader.value()))
    if not reader.committed:
        _require_named(telling, name, offered_only)
        telling.begin(name)
        telling.add(arguments or "{}")


def _require_named(telling: CallParser, name: str, offered_only: bool) -> None:
    if not name:
        raise NotACall
    if offered_only:
        telling.require_offered(name)
