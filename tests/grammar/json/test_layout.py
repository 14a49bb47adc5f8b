"""How a text was laid out tells how it goes on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.grammar.json.layout import BLANKS, JsonLayout


def coming(text: str, following: str) -> bytes | None:
    layout = JsonLayout()
    layout.extend(text.encode())
    return layout.coming(ord(following))


@pytest.mark.parametrize(
    ("text", "following", "blanks"),
    [
        ("", "{", ""),
        ("{", '"', ""),
        ('{"a":', "1", " "),
        ('{"a": 1,', '"', " "),
        ('{"a":1,"b":', "2", ""),
        ('{"a":1,"b":2,', '"', ""),
        ('{\n  "a": 1,', '"', "\n  "),
        ('{\n  "a": 1', "}", "\n"),
        ('{\n    "a": {', '"', "\n        "),
        ('{\n\t"a": {\n\t\t"b": 1', "}", "\n\t"),
        ('{\n  "a": [', '"', "\n    "),
        ('{\n  "a": 1,\n', '"', "  "),
        ('{\n  "a": 1,\n ', '"', " "),
        ('{"a": 1,\n', '"', "  "),
        ('{\n  "a": "x, y: {[",', '"', "\n  "),
        ('{"a": "\\"{", "b": 1,', '"', " "),
        ('{"a": 1}', "}", ""),
    ],
)
def test_what_comes(text: str, following: str, blanks: str) -> None:
    assert coming(text, following) == blanks.encode()


def test_where_other_blanks_stand_already_nobody_knows() -> None:
    assert coming('{"a":1,"b":  ', "2") is None


def test_another_manner_is_taken_up_everywhere() -> None:
    layout = JsonLayout()
    layout.extend(b'{"a": 1, "b": {"c": 1}}')
    again = JsonLayout(layout.habits)
    again.extend(b'{\n  "a": 1,')
    assert again.coming(ord('"')) == b"\n  "


def test_looking_ahead_teaches_nothing() -> None:
    layout = JsonLayout()
    layout.extend(b'{"a":1,')
    ahead = layout.fork()
    ahead.extend(b'\n\n   "b"    :      2,')
    assert (layout.coming(ord('"')), layout.depth) == (b" ", 1)


VALUES = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(max_size=3), inner, min_size=1),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 1, 2, 4, "\t"]))
def test_what_was_laid_out_alike_before_is_foretold(value: object, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent).encode()
    first = JsonLayout()
    first.extend(text)
    again = JsonLayout(first.habits)
    for at, byte in enumerate(text):
        if not again.in_string and byte not in BLANKS:
            solid = text[:at].rstrip(BLANKS)
            before = JsonLayout(again.habits)
            before.extend(solid)
            assert before.coming(byte) == text[len(solid) : at]
        again.extend(text[at : at + 1])
    assert again.depth == 0
