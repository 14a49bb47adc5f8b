"""Calls of models whose formats are their own: LFM2, Cohere, Kimi K3, MiniMax M3 and others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat.tool_calls.test_stream import ARGUMENTS, CALL, OBJECT, Found, found_in, together
from twd.chat.tool_calls.python_calls import python_as_json
from twd.chat.tool_calls.stream import ToolCallStream

NS = "]<]minimax[>["
OSLO = ("weather", '{"city": "Oslo"}')
ONE = ("weather", '{"city": "Oslo", "days": 3}')


def m3(text: str) -> str:
    """Tags as MiniMax M3 writes them."""
    return text.replace("<", f"{NS}<")


def k3(text: str) -> str:
    """Tags as Kimi K3 writes them."""
    return text.replace("</", "<|close|>").replace("<a", "<|open|>argument").replace(">", "<|sep|>").replace("||", "|")


def hy(text: str) -> str:
    """Tags as Hunyuan writes them."""
    return text.replace(">", ":opensource>")


COHERE = f'{{"tool_call_id": "0", "tool_name": "weather", "parameters": {ARGUMENTS}}}'
K3_CALL = '<|open|>call tool="weather" index="1"<|sep|>'
K3_CITY = '<|open|>argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|>'
K3_END = "<|close|>call<|sep|>"
KNOWN: dict[str, list[Found]] = {
    "Hm. <|tool_call_start|>[weather(city='Oslo', days=3)]<|tool_call_end|> So": ["Hm.", ONE, "So"],
    '<|tool_call_start|>[weather(city="Oslo", days=3), clock()]<|tool_call_end|>': [ONE, ("clock", "{}")],
    "<|tool_call_start|>weather(days=-1.5e3)<|tool_call_end|>": [("weather", '{"days": -1.5e3}')],
    "<|tool_call_start|>[weather( city = 'it\\'s, \"so\"' , tags=[True, None, {'a': (1, 2)}, 'x',],)]": [
        ("weather", '{"city": "it\'s, \\"so\\"", "tags": [true, null, {"a": [1, 2]}, "x"]}')
    ],
    '<|tool_call_start|>[weather(city=\'it\'s so\', tags={"a": true, "b": null})]<|tool_call_end|>': [
        ("weather", '{"city": "it\'s so", "tags": {"a": true, "b": null}}')
    ],
    f"<|tool_call_start|>[{OBJECT}]<|tool_call_end|>": [CALL],
    f"<|tool_call_start|>{OBJECT}<|tool_call_end|>": [CALL],
    "<|tool_call_start|>[weather(city='Oslo', days=three)]": [OSLO, ", days=three)]"],
    "<|tool_call_start|>[weather(city='Oslo', days": [("weather", '{"city": "Oslo"')],
    f"I act.<|START_ACTION|>[\n    {COHERE},\n    {COHERE}\n]<|END_ACTION|>": ["I act.", CALL, CALL],
    f"Plan: look\nAction:\n```json\n[\n    {COHERE}\n]```": ["Plan: look", CALL],
    f"[{COHERE}]": [CALL],
    f"<|open|>response<|sep|>Hm.<|close|>response<|sep|><|open|>tools<|sep|>{K3_CALL}{K3_CITY}"
    f'<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|>{K3_END}'
    f'<|open|>call tool="clock" index="2"<|sep|>{K3_END}<|close|>tools<|sep|>': ["Hm.", ONE, ("clock", "{}")],
    f"<|open|>tools<|sep|>{K3_CALL}"
    '<|open|>argument key="a&quot;&amp;quot;" type="object"<|sep|>{"x": 1}<|close|>argument<|sep|>'
    '<|open|>argument key="days"<|sep|>3<|close|>argument<|sep|>'
    f'<|open|>argument key="city" type="string"<|sep|>\n5\n<|close|>argument<|sep|>{K3_END}': [
        ("weather", '{"a\\"&quot;": {"x": 1}, "days": 3, "city": "\\n5\\n"}')
    ],
    f"<|open|>tools<|sep|>{K3_CALL}{K3_CITY} oops": [OSLO, "oops"],
    m3(
        '<tool_call>\n<invoke name="weather"><city>Oslo</city><days>3</days></invoke>\n<invoke name="clock"></invoke>\n'
        "</tool_call> So"
    ): [ONE, ("clock", "{}"), "So"],
    m3('<tool_call>\n<invoke name="weather"><tags><item>a & b</item><item></item></tags><city></city></invoke>'): [
        ("weather", '{"tags": ["a & b", ""], "city": ""}')
    ],
    m3('<tool_call><invoke name="weather"><city>Oslo</city><days><oops>'): [("weather", '{"city": "Oslo"')],
    m3('<tool_call><invoke name="weather"><city>Oslo</city><days><item>3</days></invoke>'): [
        OSLO,
        m3("<days><item>3</days></invoke>"),
    ],
    m3('<tool_call><invoke name="weather"><city>a') + " <b>" + m3("</city></invoke>"): [
        ("weather", '{"city": "a <b>"}')
    ],
    "<seed:tool_call>\n<function=weather>\n<parameter=city>Oslo</parameter>\n<parameter=tags>['a', True]</parameter>"
    "\n</function>\n</seed:tool_call>": [("weather", '{"city": "Oslo", "tags": ["a", true]}')],
    f"Hm.\n<TOOLCALL>[{OBJECT}, {OBJECT}]</TOOLCALL> So": ["Hm.", CALL, CALL, "So"],
    hy(
        "<tool_calls>\n<tool_call>weather<tool_sep>\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>clock<tool_sep>\n</tool_call>\n"
        "</tool_calls>"
    )
    + " So": [ONE, ("clock", "{}"), "So"],
    "<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>weather<|tool_call:args|>"
    f"{ARGUMENTS}<|tool_call:end|><|tool_call:begin|>x<|tool_call:name|>clock<|tool_call:args|>{{}}<|tool_call:end|>"
    "<|calls|>": [CALL, ("clock", "{}")],
    'Hm. <function name="weather"><param name="city">Oslo</param>\n<param name="days">3</param></function>': [
        "Hm.",
        ONE,
    ],
    '<function name="weather"><param name="city"><![CDATA[a\n</param> & <b>]]></param></function> '
    '<function name="clock"></function>': [("weather", '{"city": "a\\n</param> & <b>"}'), ("clock", "{}")],
    f"Hm.<|function_call|>{OBJECT}<|message_sep|>\n\n": ["Hm.", CALL],
    f"Hm.<|message_sep|>\n\nfunction call<|role_sep|>\n{OBJECT}": ["Hm.", CALL],
    "Hm.<|message_sep|> so": ["Hm. so"],
    f'<|tools_prefix|>[{{"weather": {ARGUMENTS}}}, {{ "clock" : {{}} }}]<|tools_suffix|> So': [
        CALL,
        ("clock", "{}"),
        "So",
    ],
    '<atem:function_calls>\n<atem:invoke name="weather">\n<atem:parameter name="city">Oslo</atem:parameter>\n'
    '<atem:parameter name="days">3</atem:parameter>\n</atem:invoke>\n</atem:function_calls>': [ONE],
}
NO_CALLS = [
    "<|tool_call_start|>",
    "<|tool_call_start|>[]<|tool_call_end|>",
    "<|tool_call_start|>[weather]<|tool_call_end|>",
    "<|tool_call_start|>[weather('Oslo')]",
    "<|tool_call_start|>[weather(city=",
    "<|tool_call_start|>[weather",
    "weather(city='Oslo')",
    "<|START_ACTION|>",
    "<|START_ACTION|>[]<|END_ACTION|>",
    '<|START_ACTION|>[{"tool_call_id": "0"}]',
    "Action: none",
    'Action:\n```json\n[{"tool_name": "directly-answer", "parameters": {}}]```',
    "<|open|>tools<|sep|>",
    "<|open|>tools<|sep|><|close|>tools<|sep|>",
    f"<|open|>tools<|sep|>{K3_CALL}text{K3_END}",
    '<|open|>tools<|sep|><|open|>call tool="',
    m3("<tool_call>"),
    m3("<tool_call></tool_call>"),
    m3('<tool_call><invoke name="weather">text</invoke></tool_call>'),
    m3('<tool_call><invoke name="weather"><></></invoke></tool_call>'),
    m3('<tool_call><invoke name="weather"></city></invoke></tool_call>'),
    '<invoke name="weather"><city>Oslo</city></invoke>',
    "<seed:tool_call>no",
    "<TOOLCALL>[]</TOOLCALL>",
    hy("<tool_calls></tool_calls>"),
    hy("<tool_call>nobody<tool_sep></tool_call>"),
    "<|tool_calls|><|calls|>",
    "<|tool_call:begin|>a<|tool_call:name|>weather<|tool_call:args|>5",
    "<|tool_call:begin|>weather<|tool_call:args|>{}",
    '<function name="nobody"><param name="a">1</param></function>',
    '<function name="weather">text</function>',
    "<|function_call|>no",
    "<|tools_prefix|>[]<|tools_suffix|>",
    '<|tools_prefix|>[{"weather": 5}]<|tools_suffix|>',
    "<atem:function_calls></atem:function_calls>",
]


@pytest.mark.parametrize("text", KNOWN)
def test_known_texts(text: str) -> None:
    expected = [one for one in KNOWN[text] if one]
    assert found_in(text) == expected
    assert found_in(*text) == expected


@pytest.mark.parametrize("text", KNOWN)
def test_every_cut_in_two_reads_the_same(text: str) -> None:
    whole = found_in(text)
    for cut in range(len(text)):
        assert found_in(text[:cut], text[cut:]) == whole


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert "".join(map(str, found_in(text))) == text
    assert "".join(map(str, found_in(*text))) == text


FRAGMENTS = [
    *(
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "[",
        "]",
        "(",
        ")",
        "weather",
        "city=",
        ",",
        "'",
        '"',
        "\\",
        "5",
        "{",
    ),
    *("<|START_ACTION|>", "<|END_ACTION|>", COHERE, "Action:", "```json", "```", "<|message_sep|>", "<|role_sep|>"),
    *("<|open|>", "<|close|>", "<|sep|>", "tools", K3_CALL, K3_CITY, K3_END, "<|open|>response<|sep|>"),
    *(f"{NS}<tool_call>", f'{NS}<invoke name="weather">', f"{NS}<a>", f"{NS}</a>", f"{NS}</invoke>", NS, "<", ">"),
    *("<tool_call:opensource>", "<tool_calls:opensource>", "<tool_sep:opensource>", "<arg_key:opensource>city"),
    *("</arg_key:opensource>", "<arg_value:opensource>", "</arg_value:opensource>", "</tool_call:opensource>"),
    *('<function name="weather">', '<param name="city">', "<![CDATA[", "]]>", "</param>", "</function>", "<TOOLCALL>"),
    *("<|tools_prefix|>", "<|tools_suffix|>", "<|function_call|>", "function call", OBJECT, "}", ":", " ", "\n"),
    *("<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>", "<seed:tool_call>"),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)


@given(text=texts | st.sampled_from(list(KNOWN)), data=st.data())
def test_cuts_change_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert found_in(*pieces) == found_in(text)


@given(text=texts)
def test_letter_by_letter_it_reads_the_same(text: str) -> None:
    assert found_in(*text) == found_in(text)


@given(text=texts)
def test_text_outside_calls_keeps_its_characters_and_order(text: str) -> None:
    at = 0
    for said in (letter for part in found_in(text) if isinstance(part, str) for letter in part):
        assert said in text[at:]
        at = text.index(said, at) + 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES)
def test_values_are_read_as_python_and_as_json_write_them(value: object) -> None:
    for written in (repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False)):
        read = python_as_json(written)
        assert read is not None
        assert json.loads(read) == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("'\\x41\\u00e9\\U0001F600\\ud83d\\ude00\\q\\\na'", "Aé😀😀\\qa"),
        ("(1, 'a',)", [1, "a"]),
        (" [ ] ", []),
        ("{'a' : {} , }", {"a": {}}),
        ("'a' 'b'", "a' 'b"),
    ],
)
def test_python_writes_more_than_json(written: str, value: object) -> None:
    read = python_as_json(written)
    assert read is not None
    assert json.loads(read) == value


@pytest.mark.parametrize(
    "written",
    [
        *("", "'", "'a", "'\\", "'\\ud83d'", "'\\U00110000'", "[1", "[1 2]", "[,]", "{1: 2}", "{'a'}", "{'a': }", "1]"),
        *("nan", "1_000", "0x1", "01", "--1", "1.", "f()", "a.b", "[" * 40 + "]" * 40, "1 1", "b'a'", "{,}", "1,"),
    ],
)
def test_what_is_no_value_is_none(written: str) -> None:
    assert python_as_json(written) is None


NESTED = {
    "properties": {
        "place": {"$ref": "#/$defs/place"},
        "tags": {"type": "array", "items": {"type": "integer"}},
        "any": {},
        "flags": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "either": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/place"}}, {"type": "null"}]},
    },
    "$defs": {
        "place": {"type": "object", "properties": {"lat": {"type": "number"}, "name": {"type": "string"}, "item": {}}}
    },
}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("<place><lat>1.5</lat><name>5</name></place>", {"place": {"lat": 1.5, "name": "5"}}),
        ("<place></place><tags></tags><any></any>", {"place": {}, "tags": [], "any": ""}),
        ("<place><item>5</item></place>", {"place": {"item": "5"}}),
        ("<tags><item>1</item>\n<item>x</item></tags>", {"tags": [1, "x"]}),
        ("<tags>[1, 2]</tags>", {"tags": [1, 2]}),
        ("<any><item>1</item><item><a>b</a></item></any>", {"any": ["1", {"a": "b"}]}),
        ("<any><a>1</a><b></b></any>", {"any": {"a": "1", "b": ""}}),
        ("<flags><a>true</a><b>False</b></flags>", {"flags": {"a": True, "b": False}}),
        ("<either><item><lat>2</lat></item></either>", {"either": [{"lat": 2}]}),
        ("<either>null</either>", {"either": None}),
        ("<odd>a <b> c</odd>", {"odd": "a <b> c"}),
    ],
)
def test_nested_elements_have_their_types_from_the_schema(written: str, value: object) -> None:
    marked = written.replace("<", f"{NS}<").replace(f"{NS}<b> c", "<b> c")
    text = f'{NS}<tool_call>{NS}<invoke name="go">{marked}{NS}</invoke>{NS}</tool_call>'
    stream = ToolCallStream({"go": NESTED})
    (found,) = together(stream.feed(text) + stream.finish())
    assert json.loads(found[1]) == value
