"""Finds tool calls in a streamed answer, in any of the known formats."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twd.chat.tool_calls.deltas import Delta
from twd.chat.tool_calls.json_calls import (
    DEEPSEEK,
    KIMI,
    SOLAR,
    bare_calls,
    call_of_section,
    calls_by_name,
    fenced_calls,
    json_calls,
    mistral_calls,
)
from twd.chat.tool_calls.parse_events import CallParser
from twd.chat.tool_calls.reader import Finding, MarkFinder, NotACall, Steps, TextEnded
from twd.chat.tool_calls.tagged_calls import (
    M3,
    cpm_call,
    function_call,
    invoked_calls,
    k3_calls,
    keyed_call,
    loose_call,
    m3_calls,
    python_calls,
)

_FUNCTION = "<function="
_SECTIONS = {
    "<｜tool▁calls▁begin｜>": DEEPSEEK,
    DEEPSEEK.call: DEEPSEEK,
    "<|tool_calls_section_begin|>": KIMI,
    KIMI.call: KIMI,
    "<|begin|>assistant<|tool_calls|>": SOLAR,
    "<|tool_calls|>": SOLAR,
    SOLAR.call: SOLAR,
}
_INVOKES = {
    "<minimax:tool_call>": "",
    "<｜DSML｜function_calls>": "｜DSML｜",
    "<｜DSML｜tool_calls>": "｜DSML｜",
    "<atem:function_calls>": "atem:",
}
"""What begins calls that are `invoke` elements, and what the names of these elements begin with."""
_HY = ":opensource"


def _calls(telling: CallParser) -> Steps:
    """As JSON, or in one of several ways in tags: marks that are alike stand around either."""
    reader = telling.reader
    yield from reader.skip_space()
    if (yield from reader.take(_FUNCTION)):
        yield from function_call(telling)
    elif (yield from reader.peek()) in "{[":
        yield from json_calls(telling)
    else:
        yield from keyed_call(telling)


def _listed_calls(telling: CallParser) -> Steps:
    """As Python writes them, or JSON where the model was told so."""
    reader = telling.reader
    yield from reader.skip_space()
    start = reader.at
    if (yield from reader.take("[")):
        yield from reader.skip_space()
    as_json = (yield from reader.peek()) == "{"
    reader.at = start
    yield from json_calls(telling) if as_json else python_calls(telling)


def _hy_calls(telling: CallParser) -> Steps:
    yield from telling.reader.skip_space()
    yield from telling.reader.require(f"<tool_call{_HY}>")
    yield from keyed_call(telling, _HY)


def _next_message(telling: CallParser) -> Steps:
    """What ends a message of GigaChat's is no text; the next message may be a call."""
    telling.drop()
    if (yield from telling.follows("function call<|role_sep|>")):
        yield from telling.reader.skip_space()
        yield from json_calls(telling)


def _layout(telling: CallParser) -> Steps:
    """Skip layout around an answer."""
    telling.drop()
    yield from ()


Calls = Callable[[CallParser], Steps]
_OPENERS: dict[str, tuple[Calls, tuple[str, ...]]] = {
    "<tool_call>": (_calls, ("</tool_call>",)),
    "<|tool_call|>": (_calls, ("<|/tool_call|>",)),
    "<tool_calls>": (_calls, ("</tool_calls>",)),
    "<seed:tool_call>": (_calls, ("</seed:tool_call>",)),
    "<TOOLCALL>": (_calls, ("</TOOLCALL>",)),
    "<|python_tag|>": (_calls, ()),
    "<|function_call|>": (json_calls, ()),
    "<|message_sep|>": (_next_message, ()),
    "<|START_ACTION|>": (_calls, ("<|END_ACTION|>",)),
    "<|tools_prefix|>": (calls_by_name, ("<|tools_suffix|>",)),
    "<|tool_call_start|>": (_listed_calls, ("<|tool_call_end|>",)),
    "Action:": (fenced_calls, ()),
    "[TOOL_CALLS]": (mistral_calls, ()),
    "<|tool_call>": (loose_call, ("<tool_call|>",)),
    _FUNCTION: (function_call, ()),
    '<function name="': (cpm_call, ()),
    f"{M3}<tool_call>": (m3_calls, (f"{M3}</tool_call>",)),
    "<|open|>tools<|sep|>": (k3_calls, ("<|close|>tools<|sep|>",)),
    "<|open|>response<|sep|>": (_layout, ()),
    "<|close|>response<|sep|>": (_layout, ()),
    f"<tool_calls{_HY}>": (_hy_calls, (f"</tool_call{_HY}>", f"</tool_calls{_HY}>")),
    f"<tool_call{_HY}>": (partial(keyed_call, suffix=_HY), (f"</tool_call{_HY}>", f"</tool_calls{_HY}>")),
    **{opener: (partial(call_of_section, section=one, opener=opener), ()) for opener, one in _SECTIONS.items()},
    **{
        opener: (partial(invoked_calls, prefix=prefix), (opener.replace("<", "</"),))
        for opener, prefix in _INVOKES.items()
    },
}
"""What calls begin with: how they go on, and what closes them."""
_OPENER = re.compile("|".join(map(re.escape, _OPENERS)))
_OPENINGS = MarkFinder(*_OPENERS)


class ToolCallStream:
    """Feed it text as it comes; what it returns, in order, is calls and everything that is not a call.

    A call is told as soon as its name is known, and from then on it stays one, even if it breaks off. Bare JSON counts
    as a call only at the beginning of the text, and only with the name of an offered tool. White space around calls
    is layout and left out. `schemas` are the offered tools: the JSON schema of the arguments by name.
    """

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._telling = CallParser(schemas)
        self._reader = self._telling.reader
        self._steps = self._all()
        next(self._steps)

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._telling.calls

    def feed(self, text: str) -> list[Delta]:
        """Add text; returns the parts that are certain by now."""
        self._reader.text += text
        next(self._steps)
        return self._telling.certain()

    def finish(self) -> list[Delta]:
        """End the text; returns the remaining parts."""
        self._reader.ended = True
        next(self._steps, None)
        return self._telling.last()

    def _all(self) -> Steps:
        try:
            yield from self._try(bare_calls(self._telling))
            while True:
                opener = yield from self._content()
                yield from self._try(self._calls_after(opener))
        except TextEnded:
            if not self._reader.committed:
                self._telling.say(len(self._reader.text))

    def _try(self, calls: Steps) -> Steps:
        """Read calls. Text that is none after all is content as far as its opener; behind that the search goes on."""
        reader, calls_before, behind_opener = self._reader, self.calls, self._reader.at
        try:
            yield from calls
        except NotACall:
            if not reader.committed:
                reader.at = reader.mark
                if self.calls == calls_before:
                    self._telling.say(behind_opener)
                    reader.at = behind_opener
        if reader.committed:
            self._telling.close()

    def _content(self) -> Finding:
        """Say everything up to the next opener; returns that, with the mark before and the position behind it."""
        reader = self._reader
        while True:
            found = _OPENER.search(reader.text, reader.at)
            if found:
                self._telling.say(found.start())
                reader.at = found.end()
                return found[0]
            self._telling.say(len(reader.text) - _OPENINGS.at_end(reader.text[reader.mark :]))
            reader.at = reader.mark
            reader.forget()
            yield from reader.more()

    def _calls_after(self, opener: str) -> Steps:
        calls, closers = _OPENERS[opener]
        yield from calls(self._telling)
        yield from self._telling.closer(*closers)
