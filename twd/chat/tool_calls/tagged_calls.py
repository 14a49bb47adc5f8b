"""Reads calls whose arguments stand one by one, in tags of their own or as Python writes them."""

import json
import re
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

from twd.chat.tool_calls.arguments import argument
from twd.chat.tool_calls.loose import loose_object
from twd.chat.tool_calls.parse_events import NAME, CallParser
from twd.chat.tool_calls.python_calls import python_value
from twd.chat.tool_calls.reader import Finding, NotACall, Steps, TextReader
from twd.chat.tool_calls.tree import element, element_as_json

M3 = "]<]minimax[>["
_KEY = re.compile(r"[^\W\d]\w{0,127}")
Key = Generator[None, None, str | None]


class ArgumentTags(NamedTuple):
    """How a format writes an argument."""

    key: str
    key_end: str
    end: str
    """What stands behind all arguments, and so also where there are none."""
    value_end: str
    head_end: str = ""
    """What ends the attributes of which the key is one; then the value is written as it is, without line breaks
    around."""
    value: str = ""
    quotes: tuple[str, str] = ("", "")
    """What may stand around a value."""
    escaped: bool = False
    """Whether names and keys are written as in XML."""


FUNCTION = ArgumentTags("<parameter=", ">", "</function>", "</parameter>")
CPM = ArgumentTags('<param name="', '"', "</function>", "</param>", ">", quotes=("<![CDATA[", "]]>"))
K3 = ArgumentTags(
    *('<|open|>argument key="', '"', "<|close|>call<|sep|>", "<|close|>argument<|sep|>", "<|sep|>"), escaped=True
)
_TOLD_KINDS: dict[str, list[Any]] = {
    'string="true"': ["string"],
    'string="false"': [],
    'type="string"': ["string"],
    **{f'type="{kind}"': [] for kind in ("number", "integer", "boolean", "object", "array", "null")},
}


def keyed_tags(suffix: str = "") -> ArgumentTags:
    """Of `<arg_key>`, with what the names of all tags end with."""
    key, value = f"arg_key{suffix}>", f"arg_value{suffix}>"
    return ArgumentTags(f"<{key}", f"</{key}", f"</tool_call{suffix}>", f"</{value}", value=f"<{value}")


def invoke_tags(prefix: str) -> ArgumentTags:
    """Of `<invoke>`, with what the names of all tags begin with."""
    return ArgumentTags(f'<{prefix}parameter name="', '"', f"</{prefix}invoke>", f"</{prefix}parameter>", ">")


def function_call(telling: CallParser) -> Steps:
    """`NAME>`, and JSON or parameters."""
    reader = telling.reader
    name = yield from reader.word(NAME)
    yield from reader.require(">")
    yield from reader.skip_space()
    if (yield from reader.peek()) == "{":
        yield from telling.streamed(name)
    else:
        yield from _call_in_tags(telling, name, FUNCTION)
    yield from telling.closer(FUNCTION.end)


def cpm_call(telling: CallParser) -> Steps:
    """`NAME">`, and parameters; texts that are XML hold such elements, too."""
    name = yield from telling.reader.word(NAME)
    telling.require_offered(name)
    yield from telling.reader.require('">')
    yield from telling.reader.skip_space()
    yield from _call_in_tags(telling, name, CPM)
    yield from telling.closer(CPM.end)


def keyed_call(telling: CallParser, suffix: str = "") -> Steps:
    """`NAME`, and keys and values in turn."""
    yield from telling.reader.skip_space()
    name = yield from telling.reader.word(NAME)
    yield from telling.reader.skip_space()
    if (yield from telling.reader.take(f"<tool_sep{suffix}>")):
        yield from telling.reader.skip_space()
    yield from _call_in_tags(telling, name, keyed_tags(suffix), any_word=True)


def invoked_calls(telling: CallParser, prefix: str) -> Steps:
    """`<invoke name="NAME">`, and parameters."""
    tags = invoke_tags(prefix)

    def call(name: str) -> Steps:
        yield from telling.reader.require('">')
        yield from telling.reader.skip_space()
        yield from _call_in_tags(telling, name, tags)

    yield from _one_by_one(telling, f'<{prefix}invoke name="', call, tags.end)


def k3_calls(telling: CallParser) -> Steps:
    """`<|open|>call tool="NAME" index="1"<|sep|>`, and arguments."""

    def call(name: str) -> Steps:
        yield from telling.reader.require('"')
        yield from telling.reader.until(K3.head_end)
        yield from telling.reader.skip_space()
        yield from _call_in_tags(telling, name, K3)

    yield from _one_by_one(telling, '<|open|>call tool="', call, K3.end)


def m3_calls(telling: CallParser) -> Steps:
    """`<invoke name="NAME">`, and elements named as the arguments; each tag has a mark before it."""
    reader, ends = telling.reader, f"{M3}</invoke>"

    def call(name: str) -> Steps:
        yield from reader.require('">')
        yield from reader.skip_space()
        schema = telling.schemas.get(name)
        yield from _call(telling, name, partial(_element_key, reader), partial(_element_value, reader, schema), ends)

    yield from _one_by_one(telling, f'{M3}<invoke name="', call, ends)


def _one_by_one(telling: CallParser, begins: str, call: Callable[[str], Steps], ends: str) -> Steps:
    """`begins`, a name, what `call` reads behind it, and `ends`, as often as they come."""
    yield from telling.reader.skip_space()
    yield from telling.reader.require(begins)
    while True:
        name = yield from telling.reader.word(NAME)
        yield from call(name)
        yield from telling.closer(ends)
        if not (yield from telling.follows(begins)):
            break


def _element_key(reader: TextReader) -> Key:
    yield from reader.skip_space()
    before = reader.at
    key = (yield from reader.until(">")) if (yield from reader.take(f"{M3}<")) else ""
    if key and not key.startswith("/"):
        return key
    reader.at = before
    return None


def _element_value(reader: TextReader, schema: Any, key: str) -> Finding:
    return element_as_json((yield from element(reader, M3, key)), schema, key)


def loose_call(telling: CallParser) -> Steps:
    """`call:NAME{key:<|"|>text<|"|>,other:[1,2]}`: keys are bare, and strings have quotes of their own."""
    yield from telling.reader.require("call:")
    name = yield from telling.reader.word(NAME)
    yield from telling.reader.require("{")
    arguments = yield from loose_object(telling.reader)
    telling.whole(name, json.dumps(arguments, ensure_ascii=False))


def python_calls(telling: CallParser) -> Steps:
    """`NAME(key='text', other=[1, 2])`, or several in a list."""
    reader = telling.reader
    listed = yield from reader.take("[")
    while True:
        yield from reader.skip_space()
        name = yield from reader.word(NAME)
        yield from reader.require("(")
        yield from _call(telling, name, partial(_python_key, reader), lambda _: python_value(reader), ")")
        yield from telling.closer(")")
        if not (yield from telling.follows(",")):
            break
    if listed:
        yield from telling.closer("]")


def _python_key(reader: TextReader) -> Key:
    yield from reader.skip_space()
    if (yield from reader.take(",")):
        yield from reader.skip_space()
    if (yield from reader.peek()) == ")":
        return None
    key = yield from reader.word(_KEY)
    yield from reader.skip_space()
    yield from reader.require("=")
    yield from reader.skip_space()
    return key


def _call_in_tags(telling: CallParser, name: str, tags: ArgumentTags, *, any_word: bool = False) -> Steps:
    """Each argument in tags of its own; which are strings is known from the tool's schema."""
    told: list[Any] | None = None
    reader = telling.reader

    def key() -> Key:
        nonlocal told
        yield from reader.skip_space()
        if not (yield from reader.take(tags.key)):
            return None
        found = yield from reader.until(tags.key_end)
        told = _TOLD_KINDS.get((yield from reader.until(tags.head_end)).strip()) if tags.head_end else None
        return found.replace("&quot;", '"').replace("&amp;", "&") if tags.escaped else found

    def value(key: str) -> Finding:
        written = yield from _text(reader, tags)
        return argument(telling.schemas.get(name), key, written, told)

    yield from _call(telling, name, key, value, tags.end, any_word=any_word)


def _text(reader: TextReader, tags: ArgumentTags) -> Finding:
    """What stands for a value."""
    if tags.value:
        yield from reader.skip_space()
        yield from reader.take(tags.value)
    begins, ends = tags.quotes
    if begins and (yield from reader.take(begins)):
        quoted = yield from reader.until(ends)
        yield from reader.require(tags.value_end)
        return quoted
    text = yield from reader.until(tags.value_end)
    return text if tags.head_end else text.removeprefix("\n").removesuffix("\n")


def _call(
    telling: CallParser,
    name: str,
    next_key: Callable[[], Key],
    value: Callable[[str], Finding],
    end: str,
    *,
    any_word: bool = False,
) -> Steps:
    """Arguments one by one; what is none ends the call, and is text."""
    reader, separator = telling.reader, "{"
    while True:
        before = reader.at
        try:
            key = yield from next_key()
            if key is None:
                break
            if separator == "{":
                telling.begin(name)
            written = yield from value(key)
        except NotACall:
            if not reader.committed:
                raise
            reader.at = before
            break
        telling.add(f"{separator}{json.dumps(key)}: {written}")
        separator = ", "
    if not reader.committed:
        yield from reader.require(end)
        if any_word:
            telling.require_offered(name)
        telling.begin(name)
    telling.add("{}" if separator == "{" else "}")
    telling.close()
