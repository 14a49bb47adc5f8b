"""Fits a conversation to what a chat template can do: found out by trying, made up for in the messages."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Any

import msgspec

from twd.wire.failures import TwdError
from twd.wire.job import ChatMessage, ToolCall

Message = dict[str, Any]
Hide = Callable[[str], str]
TryRender = Callable[[list[Message], list[Any]], str]

_NEEDLE, _OTHER_NEEDLE = "needle_in_the_hay", "another_needle"
_ID_LENGTH = 9
_USER: Message = {"role": "user", "content": "Hello"}
_TOOL = {
    "type": "function",
    "function": {"name": _NEEDLE, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_RESULT: Message = {"role": "tool", "content": "done", "tool_call_id": "a" * _ID_LENGTH}
_TOOLS_INTRODUCTION = """You can call functions. To call one, write only this, once for each call:
<tool_call>
{"name": the function's name, "arguments": {its arguments}}
</tool_call>
These are the functions, one JSON object a line:
"""


@dataclass(frozen=True, slots=True)
class TemplateAbilities:
    """What a template does by itself."""

    system: bool
    developer: bool
    tools: bool
    tool_calls: bool
    tool_results: bool
    object_arguments: bool
    null_content: bool

    @classmethod
    def of(cls, render: TryRender, words: Iterable[str]) -> "TemplateAbilities":
        """Try the template on small conversations; `words` are those that it mentions."""
        known = set(words)
        calls = next(_ways_to_call(render), None)
        object_arguments, null_content = calls or (True, False)
        called = _call_message(object_arguments, null_content)
        result = {"role": "tool", "content": _OTHER_NEEDLE, "tool_call_id": "a" * _ID_LENGTH, "name": _NEEDLE}
        return cls(
            system=_shown(render, [{"role": "system", "content": _NEEDLE}, _USER], [], [_NEEDLE]),
            developer="developer" in known,
            tools=_shown(render, [_USER], [_TOOL], [_NEEDLE]),
            tool_calls=calls is not None,
            tool_results="tool" in known and _shown(render, [_USER, called, result], [_TOOL], [_OTHER_NEEDLE]),
            object_arguments=object_arguments,
            null_content=null_content,
        )


def _ways_to_call(render: TryRender) -> Iterator[tuple[bool, bool]]:
    """(arguments as an object, content as null) for each way in which the template writes a call as it should.

    Some write a call only where its result follows, and some know no results.
    """
    for null_content, object_arguments, behind in product((False, True), (True, False), ((), (_RESULT,))):
        called = _call_message(object_arguments, null_content)
        text = _tried(render, [_USER, called, *behind], [_TOOL])
        spoilt = f"'{_OTHER_NEEDLE}'" in text or f'\\"{_OTHER_NEEDLE}' in text
        if _NEEDLE in text and _OTHER_NEEDLE in text and not spoilt:
            yield object_arguments, null_content


def _call_message(object_arguments: bool, null_content: bool) -> Message:
    arguments: Any = {_OTHER_NEEDLE: 1} if object_arguments else f'{{"{_OTHER_NEEDLE}": 1}}'
    call = {"id": "a" * _ID_LENGTH, "type": "function", "function": {"name": _NEEDLE, "arguments": arguments}}
    return {"role": "assistant", "content": None if null_content else "", "tool_calls": [call]}


def _shown(render: TryRender, messages: list[Message], tools: list[Any], needles: list[str]) -> bool:
    text = _tried(render, messages, tools)
    return all(needle in text for needle in needles)


def _tried(render: TryRender, messages: list[Message], tools: list[Any]) -> str:
    try:
        return render(messages, tools)
    except TwdError:
        return ""


def adapt(messages: list[ChatMessage], tools: list[msgspec.Raw], able: TemplateAbilities) -> list[ChatMessage]:
    """The conversation with what the template cannot do written out as text."""
    adapted = [_adapt_role(message, able) for message in _with_tool_names(messages)]
    if tools and not able.tools:
        listed = "\n".join(bytes(tool).decode() for tool in tools)
        adapted.insert(0, ChatMessage(role="system", content=_TOOLS_INTRODUCTION + listed))
        adapted = _merge_leading_system(adapted)
    return adapted if able.system else fold_system(adapted)


def _adapt_role(message: ChatMessage, able: TemplateAbilities) -> ChatMessage:
    if message.role == "developer" and not able.developer:
        return msgspec.structs.replace(message, role="system")
    if message.role == "tool" and not able.tool_results:
        return ChatMessage(role="user", content=f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls and not able.tool_calls:
        return ChatMessage(role="assistant", content="\n".join(filter(None, [message.content, *_written(message)])))
    return message


def _written(message: ChatMessage) -> list[str]:
    return [f"<tool_call>\n{_call_json(call)}\n</tool_call>" for call in message.tool_calls]


def _call_json(call: ToolCall) -> str:
    return f'{{"name": {msgspec.json.encode(call.name).decode()}, "arguments": {call.arguments or "{}"}}}'


def _with_tool_names(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Tool results carry only the id of their call; some templates want the name."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [
        msgspec.structs.replace(message, name=names[message.tool_call_id])
        if message.role == "tool" and not message.name and message.tool_call_id in names
        else message
        for message in messages
    ]


def _merge_leading_system(messages: list[ChatMessage]) -> list[ChatMessage]:
    if len(messages) > 1 and messages[1].role == "system":
        return [_merged(messages[1], messages[0]), *messages[2:]]
    return messages


def fold_system(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Every system message in front of the first user turn, as part of it."""
    system = [message for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if not system:
        return messages
    first_user = next((index for index, message in enumerate(rest) if message.role == "user"), None)
    if first_user is None:
        rest.insert(0, ChatMessage(role="user"))
        first_user = 0
    for message in reversed(system):
        rest[first_user] = _merged(message, rest[first_user], role="user")
    return rest


def merge_neighbours(messages: list[ChatMessage]) -> list[ChatMessage]:
    """One system message, in front, and no two user or assistant turns in a row."""
    merged: list[ChatMessage] = []
    for message in sorted(messages, key=lambda message: message.role != "system"):
        last = merged[-1] if merged else None
        if last and last.role == message.role != "tool" and not last.tool_calls:
            merged[-1] = _merged(last, message)
        else:
            merged.append(message)
    return merged


def _merged(first: ChatMessage, second: ChatMessage, **changes: str) -> ChatMessage:
    content = "\n\n".join(filter(None, [first.content, second.content]))
    return msgspec.structs.replace(second, content=content, **changes)


def one_call_a_turn(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Calls that were made at once as if they had been made one after the other, each with its result."""
    apart: list[ChatMessage] = []
    placed: set[int] = set()
    for index, message in enumerate(messages):
        if index in placed:
            continue
        if len(message.tool_calls) < 2:
            apart.append(message)
            continue
        results = list(takewhile(lambda at: messages[at].role == "tool", range(index + 1, len(messages))))
        for number, call in enumerate(message.tool_calls):
            told = {} if number == 0 else {"content": "", "thoughts": ""}
            apart.append(msgspec.structs.replace(message, tool_calls=[call], **told))
            mine = [at for at in results if messages[at].tool_call_id == call.id and at not in placed]
            apart += [messages[at] for at in mine]
            placed.update(mine)
    return apart


def shorten_ids(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Call ids of nine letters and digits, which some templates insist on."""
    return [
        msgspec.structs.replace(
            message,
            tool_call_id=_short_id(message.tool_call_id) if message.role == "tool" else "",
            tool_calls=[msgspec.structs.replace(call, id=_short_id(call.id)) for call in message.tool_calls],
        )
        for message in messages
    ]


def _short_id(long: str) -> str:
    return hashlib.sha256(long.encode()).hexdigest()[:_ID_LENGTH]


def as_dicts(messages: list[ChatMessage], able: TemplateAbilities, hide: Hide) -> list[Message]:
    """Messages as templates read them, with every text of the user's passed through `hide`."""
    return [_as_dict(message, able, hide) for message in messages]


def _as_dict(message: ChatMessage, able: TemplateAbilities, hide: Hide) -> Message:
    content = None if message.tool_calls and not message.content and able.null_content else hide(message.content)
    shaped: Message = {"role": message.role, "content": content}
    if message.thoughts:  # by either name, as templates differ
        shaped["reasoning_content"] = shaped["thinking"] = hide(message.thoughts)
    if message.name:
        shaped["name"] = hide(message.name)
    if message.tool_calls:
        shaped["tool_calls"] = [_call_as_dict(call, able, hide) for call in message.tool_calls]
    if message.tool_call_id:
        shaped["tool_call_id"] = hide(message.tool_call_id)
    return shaped


def _call_as_dict(call: ToolCall, able: TemplateAbilities, hide: Hide) -> Message:
    arguments = _arguments(call.arguments) if able.object_arguments else call.arguments
    function = {"name": hide(call.name), "arguments": hide_deeply(arguments, hide)}
    return {"id": hide(call.id), "type": "function", "function": function}


def _arguments(text: str) -> Any:
    try:
        parsed = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return text
    return parsed if isinstance(parsed, dict) else text


def hide_deeply(value: Any, hide: Hide) -> Any:
    """A JSON value with every text in it, keys too, passed through `hide`."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [hide_deeply(item, hide) for item in value]
    if isinstance(value, dict):
        return {hide(key): hide_deeply(item, hide) for key, item in value.items()}
    return value
