"""Tool calls are found in every known format, however the text is cut, and what is no call stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.reader import UNDECIDED_MAX
from twd.chat.tool_calls.stream import ToolCallStream

SCHEMAS = {
    "weather": {
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": ["array", "null"]}}
    },
    "clock": {},
}
ARGUMENTS = '{"city": "a \\"b\\" }{ é", "days": [1, {"x": 2}]}'
Found = str | tuple[str, str]


def together(deltas: list[Delta]) -> list[Found]:
    """Content as text, calls as (name, arguments)."""
    found: list[Found] = []
    for delta in deltas:
        last = found[-1] if found else None
        match delta:
            case ContentDelta(text=text) if isinstance(last, str):
                found[-1] = last + text
            case ContentDelta(text=text):
                found.append(text)
            case ToolCallStart(name=name):
                found.append((name, ""))
            case ToolCallArguments(text=text):
                assert isinstance(last, tuple)
                found[-1] = (last[0], last[1] + text)
    assert [delta.index for delta in deltas if isinstance(delta, ToolCallStart)] == [
        *range(sum(isinstance(one, tuple) for one in found))
    ]
    return found


def found_in(*pieces: str) -> list[Found]:
    stream = ToolCallStream(SCHEMAS)
    return together([delta for piece in pieces for delta in stream.feed(piece)] + stream.finish())


CALL = ("weather", ARGUMENTS)
OBJECT = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'
KNOWN: dict[str, list[Found]] = {
    f"<tool_call>\n{OBJECT}\n</tool_call>": [CALL],
    f"<tool_call>{OBJECT}</tool_call>\n<tool_call>{OBJECT}</tool_call>\n": [CALL, CALL],
    f"I look.\n\n<tool_call>\n{OBJECT}\n</tool_call>\n\nDone. ": ["I look.", CALL, "Done. "],
    f"<tool_call>{OBJECT}\n{OBJECT}</tool_call>": [CALL, CALL],
    f"<tool_call>[{OBJECT}, {OBJECT}]</tool_call>": [CALL, CALL],
    f"<tool_call>{OBJECT} and on": [CALL, "and on"],
    f"<tool_call>{OBJECT}</tool_c": [CALL],
    f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "weather"}}</tool_call>': [CALL],
    f'<tool_call>{{"name": "weather", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>': [CALL],
    f'<tool_call>{{"type": "function", "function": {OBJECT}}}</tool_call>': [CALL],
    f'<tool_call>{{"id": "1", "name": "weather", "arguments": {ARGUMENTS}, "note": [1]}}</tool_call>': [CALL],
    '<tool_call>{"name": "clock"}</tool_call>': [("clock", "{}")],
    '<tool_call>{"name": "clock", "arguments": null}</tool_call>': [("clock", "{}")],
    '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call>': [("unheard_of", "{}")],
    f'{{"name": "weather", "parameters": {ARGUMENTS}}}': [CALL],
    f' \n{{"type": "function", "name": "weather", "parameters": {ARGUMENTS}}}': [CALL],
    f"[{OBJECT},{OBJECT}]": [CALL, CALL],
    f"{OBJECT}; {OBJECT}": [CALL, CALL],
    f"{OBJECT}\n</tool_call>": [CALL],
    f'{OBJECT} {{"x": 1}}': [CALL, '{"x": 1}'],
    f"<|python_tag|>{OBJECT}; {OBJECT}": [CALL, CALL],
    f"[TOOL_CALLS] [{OBJECT}]": [CALL],
    f'[TOOL_CALLS][{OBJECT[:-1]}, "id": "abc123def"}}]': [CALL],
    f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock[CALL_ID]abc[ARGS]{{}}": [CALL, ("clock", "{}")],
    f"[TOOL_CALLS]weather{ARGUMENTS}": [CALL],
    f"<|tool_call|>[{OBJECT}]<|/tool_call|>": [CALL],
    f"<function=weather>{ARGUMENTS}</function>": [CALL],
    f"<function=weather>{ARGUMENTS}</function> so": [CALL, "so"],
    "<function=clock></function>": [("clock", "{}")],
    "<tool_call>\n<function=weather>\n<parameter=city>\nÖre\nbro\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>": [("weather", '{"city": "Öre\\nbro", "days": 3}')],
    "<function=weather><parameter=tags>null</parameter><parameter=days>soon</parameter></function>": [
        ("weather", '{"tags": null, "days": "soon"}')
    ],
    "<function=other><parameter=a>1</parameter></function>": [("other", '{"a": "1"}')],
    "<function=weather><parameter=city>x</parameter> oops": [("weather", '{"city": "x"}'), "oops"],
    f"<function=weather><parameter=tags>{'[' * 9999}</parameter></function>": [
        ("weather", f'{{"tags": "{"[" * 9999}"}}')
    ],
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Öre\nbro</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call>": [("weather", '{"city": "Öre\\nbro", "days": 3}')],
    "Hm.<tool_call>weather<arg_key>tags</arg_key><arg_value>[1]</arg_value></tool_call> <tool_call>clock</tool_call>": [
        "Hm.",
        ("weather", '{"tags": [1]}'),
        ("clock", "{}"),
    ],
    '<|tool_call>call:weather{city:<|"|>a, "b" }{ é<|"|>,days:3,tags:[<|"|>x<|"|>,'
    '{y:null,<|"|>z z<|"|>:-1.5}]}<tool_call|>': [
        ("weather", '{"city": "a, \\"b\\" }{ é", "days": 3, "tags": ["x", {"y": null, "z z": -1.5}]}')
    ],
    "<|tool_call>call:clock{}<tool_call|><|tool_call>call:clock{odd:so it is}<tool_call|>": [
        ("clock", "{}"),
        ("clock", '{"odd": "so it is"}'),
    ],
    f"<tool_calls>[{OBJECT}, {OBJECT}]</tool_calls>": [CALL, CALL],
    f"Hm\n<tool_calls>\n{OBJECT}\n{OBJECT}\n</tool_calls> So": ["Hm", CALL, CALL, "So"],
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n" + ARGUMENTS + "\n```"
    "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n```json\n{}\n```<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>": [CALL, ("clock", "{}")],
    f"I look.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>\nSo": [
        "I look.",
        CALL,
        ("clock", "{}"),
        "So",
    ],
    f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁e": [("function", ARGUMENTS)],
    f"<｜tool▁call▁begin｜>weather<｜tool▁sep｜>```json\n{ARGUMENTS}\n```": [CALL],
    f"Hm. <|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{ARGUMENTS}"
    "<|tool_call_end|><|tool_call_begin|> clock:12 <|tool_call_argument_begin|> {} <|tool_call_end|>"
    "<|tool_calls_section_end|> Done": ["Hm.", CALL, ("clock", "{}"), "Done"],
    "<|tool_call_begin|>functions.a.b<|tool_call_argument_begin|>{}": [("a.b", "{}")],
    '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">\nÖre "a" <b>\n</parameter>\n'
    '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="clock">\n</invoke>\n</minimax:tool_call> So': [
        ("weather", '{"city": "\\nÖre \\"a\\" <b>\\n", "days": 3}'),
        ("clock", "{}"),
        "So",
    ],
    '<minimax:tool_call><invoke name="clock"></invoke><invoke name="': [("clock", "{}"), '<invoke name="'],
    '<minimax:tool_call><invoke name="weather"><parameter name="city">x</parameter> oops': [
        ("weather", '{"city": "x"}'),
        "oops",
    ],
    'Ok\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">5'
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="tags" string="false">["a"]</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="other" string="false">{"a": 1}</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    "</｜DSML｜function_calls>": ["Ok", ("weather", '{"city": "5", "tags": ["a"], "other": {"a": 1}}')],
    '<｜DSML｜tool_calls><｜DSML｜invoke name="clock"></｜DSML｜invoke></｜DSML｜tool_calls>': [("clock", "{}")],
    f"<tool_call>{OBJECT[:-9]}": [("weather", ARGUMENTS[:-8])],
    '<tool_call>{"name": "weather", "arguments": {"city": "a"} oops': [("weather", '{"city": "a"}'), "oops"],
    f"<tool_call>{OBJECT}, {{1}}": [CALL, ", {1}"],
}
NO_CALLS = [
    "",
    " \n",
    "Just text. ",
    "a < b <tool",
    "<tool_call>",
    "<tool_call>{",
    "<tool_call>no</tool_call>",
    '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": no}</tool_call>',
    '<tool_call>{"arguments": "\\x", "name": "weather"}</tool_call>',
    '<tool_call>{"name": "\\ud83d", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"\\ud83d\\"}"}</tool_call>',
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": "wea',
    '<tool_call>{"other": 1, "name": "weather"}</tool_call>',
    "<tool_call>[]</tool_call>",
    '{"name": "unheard_of", "arguments": {}}',
    '{"answer": 42}',
    '[{"name": "Bob"}, {"name": "Eve"}]',
    "[1, 2]",
    f"Text before. {OBJECT}",
    "<function=>{}</function>",
    "<function=weather {}",
    "<function=weather>text</function>",
    "<|python_tag|>print(1)",
    "[TOOL_CALLS]",
    "[TOOL_CALLS]weather and so",
    "[TOOL_CALLS]weather[ARGS]5",
    "<tool_call><tool_call>",
    "<|tool_call>call:weather",
    '<|tool_call>call:weather{city:<|"|>Oslo',
    "<|tool_call>weather{}<tool_call|>",
    "<|tool_call>call:weather{tags:[}",
    "<|tool_call>call:weather{tags:[1,}]}<tool_call|>",
    "<|tool_call>call:weather{city:}<tool_call|>",
    "<|tool_call>call:weather{a:" + "[" * 5000,
    "<tool_call>" + '{"function":' * 5000,
    "<｜tool▁calls▁begin｜>no",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather",
    "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>clock [",
    "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>[1]<｜tool▁call▁end｜>",
    "<｜tool▁call▁begin｜><｜tool▁sep｜>{}<｜tool▁call▁end｜>",
    "<|tool_calls_section_begin|><|tool_calls_section_end|>",
    "<|tool_call_begin|>:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
    "<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>5",
    "<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>weather{}",
    "<minimax:tool_call>",
    "<minimax:tool_call></minimax:tool_call>",
    '<minimax:tool_call><invoke name="weather">text</invoke></minimax:tool_call>',
    '<minimax:tool_call><invoke name=""></invoke></minimax:tool_call>',
    '<invoke name="weather"></invoke>',
    '<｜DSML｜function_calls><invoke name="weather"></invoke>',
    '<｜DSML｜function_calls><｜DSML｜invoke name="weather">text</｜DSML｜invoke>',
]


@pytest.mark.parametrize("text", KNOWN)
def test_known_texts(text: str) -> None:
    assert found_in(text) == KNOWN[text]
    assert found_in(*text) == KNOWN[text]


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert "".join(map(str, found_in(text))) == text
    assert "".join(map(str, found_in(*text))) == text


def test_a_call_behind_a_false_one_is_found() -> None:
    assert found_in(f"<tool_call>no <tool_call>{OBJECT}</tool_call>") == ["<tool_call>no", CALL]


TAGS = "<tool_call> </tool_call> <function=weather> </function> <parameter=city> </parameter> [TOOL_CALLS] [ARGS]"
SIGNS = """{ } [ ] , " \\ : < x weather "name" "arguments" """
FRAGMENTS = [*TAGS.split(), *SIGNS.split(), OBJECT, ARGUMENTS, " ", "\n"]
NEWER_MARKS = [
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    *("<|tool_calls_section_end|>", "functions.", ":0", "function", "```json\n", "\n```", "</invoke>", "</parameter>"),
    *("<minimax:tool_call>", "</minimax:tool_call>", '<invoke name="weather">', '<parameter name="days">', "weather"),
    *("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", '<｜DSML｜invoke name="weather">', "</｜DSML｜invoke>"),
    *(
        '<｜DSML｜parameter name="days" string="false">',
        "</｜DSML｜parameter>",
        '{"a": 1}',
        "3",
        "{",
        "}",
        "<",
        " ",
        "\n",
    ),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join) | st.lists(
    st.sampled_from(NEWER_MARKS), max_size=12
).map("".join)


@given(text=texts | st.sampled_from(list(KNOWN)), data=st.data())
def test_cuts_change_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert found_in(*pieces) == found_in(text)


@given(text=texts)
def test_letter_by_letter_it_reads_the_same(text: str) -> None:
    assert found_in(*text) == found_in(text)


@pytest.mark.parametrize("text", KNOWN)
def test_every_cut_in_two_reads_the_same(text: str) -> None:
    for cut in range(len(text) if len(text) < 2000 else 0):
        assert found_in(text[:cut], text[cut:]) == KNOWN[text]


@given(text=texts)
def test_text_outside_calls_keeps_its_characters_and_order(text: str) -> None:
    at = 0
    for said in (part for part in found_in(text) if isinstance(part, str)):
        assert said in text[at:]
        at = text.index(said, at) + len(said)


@given(
    parts=st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", exclude_characters="<[{"), max_size=8),
            st.dictionaries(st.text(), st.text()),
        ),
        max_size=4,
    )
)
def test_written_calls_are_read_back(parts: list[tuple[str, dict[str, str]]]) -> None:
    written, expected = "", list[Found]()
    for said, arguments in parts:
        as_json = json.dumps(arguments, ensure_ascii=False)
        written += said + f'<tool_call>{{"name": "weather", "arguments": {as_json}}}</tool_call>'
        expected += [said.strip() if expected else said.rstrip(), ("weather", as_json)]
    assert found_in(*written) == [part for part in expected if part]


def test_arguments_come_as_they_are_written() -> None:
    stream = ToolCallStream(SCHEMAS)
    assert stream.feed('<tool_call>{"name": "weather"') == []
    assert stream.feed(', "arguments": {"ci') == [ToolCallStart(0, "weather"), ToolCallArguments(0, '{"ci')]
    assert stream.feed('ty": "x') == [ToolCallArguments(0, 'ty": "x')]
    assert stream.feed('"}}</tool') == [ToolCallArguments(0, '"}')]
    assert stream.finish() == []
    assert stream.calls == 1


def test_content_is_held_back_only_as_far_as_it_may_be_a_call() -> None:
    stream = ToolCallStream(SCHEMAS)
    assert stream.feed("Hello <tool") == [ContentDelta("Hello")]
    assert stream.feed("box>") == [ContentDelta(" <toolbox>")]
    assert ToolCallStream(SCHEMAS).feed('{"answer": ') == [ContentDelta('{"answer":')]


def test_what_does_not_become_a_call_in_good_time_is_none() -> None:
    stream = ToolCallStream(SCHEMAS)
    text = '<tool_call>{"arguments": "' + "x" * UNDECIDED_MAX
    assert together(stream.feed(text)) == [text]
    assert together(stream.feed("y")) == ["y"]


@pytest.mark.parametrize(
    ("schema", "written", "argument"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", "3"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", "null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "3", '"3"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", "null"),
        ({"oneOf": [{"type": "array"}, {"$ref": "#/$defs/place"}]}, '["a"]', '["a"]'),
        ({"$ref": "#/$defs/place"}, '{"street": "a"}', '{"street": "a"}'),
        ({"allOf": [{"$ref": "#/$defs/a~1b"}]}, "5", "5"),
        ({"$ref": "#/$defs/nowhere"}, "5", '"5"'),
        ({"$ref": "#/$defs/itself"}, "5", '"5"'),
        ({"enum": [1, 2]}, "2", "2"),
        ({"enum": ["1", "2"]}, "2", '"2"'),
        ({"const": False}, "False", "false"),
        ({"type": "boolean"}, "\nTrue\n", "true"),
        ({"type": ["boolean", "string"]}, "true", '"true"'),
        ({"type": "number"}, "NaN", '"NaN"'),
        ({"type": "object"}, '{"a": Infinity}', '"{\\"a\\": Infinity}"'),
    ],
)
def test_what_stands_in_tags_has_its_type_from_the_schema(schema: object, written: str, argument: str) -> None:
    itself: dict[str, object] = {"anyOf": [{"$ref": "#/$defs/itself"}] * 50}
    defs = {"place": {"type": "object"}, "a/b": {"type": "number"}, "itself": itself}
    stream = ToolCallStream({"weather": {"properties": {"x": schema}, "$defs": defs}})
    text = f"<function=weather><parameter=x>{written}</parameter></function>"
    assert together(stream.feed(text) + stream.finish()) == [("weather", f'{{"x": {argument}}}')]


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"properties": []},
        {"properties": {"city": 5}},
        {"properties": {"city": {"type": {}, "enum": 5, "anyOf": {}, "allOf": [5], "$ref": 5}}},
        {"properties": {"city": {"$ref": "#/properties/city/x"}}},
    ],
)
def test_a_schema_that_is_none_does_no_harm(schema: object) -> None:
    stream = ToolCallStream({"weather": schema})
    text = "<function=weather><parameter=city>5</parameter></function>"
    assert together(stream.feed(text))[0][0] == "weather"
