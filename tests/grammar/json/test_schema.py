"""What a schema's rules allow is what the schema allows, and what they cannot enforce they refuse."""

import json
import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grammar.made import GRAMMARS, random_text, schema, takes
from tests.properties import examples
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "ab", "b"]}, "maxItems": 2},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "tags"],
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: dict[str, Any] = {
    "person": PERSON,
    "tree": TREE,
    "all optional": {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
    "open": {"properties": {"a": {"type": "null"}, "abc": {"type": "null"}},
        "additionalProperties": {"type": "integer"}},
    "open required": {"properties": {"x": {"type": "null"}}, "required": ["x", "y"], "additionalProperties": True},
    "counted": {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2},
    "anything": {},
    "any list": {"type": "array", "minItems": 2},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 1},
    "tuple and more": {"prefixItems": [{"const": "h"}], "items": {"type": "null"}, "minItems": 2, "maxItems": 4},
    "no items": {"type": "array", "maxItems": 0},
    "union": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}, {"type": "null"}]},
    "union with siblings": {"type": "object", "properties": {"k": {"enum": ["a", "b"]}}, "required": ["k"],
        "anyOf": [{"properties": {"x": {"type": "null"}}, "required": ["x"]}, {"properties": {"y": {"const": 0}}}]},
    "all of": {"allOf": [{"$ref": "#/$defs/p"}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
        "$defs": {"p": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}},
    "one all of": {"properties": {"p": {"allOf": [{"$ref": "#/definitions/q"}], "title": "P"}},
        "definitions": {"q": {"properties": {"p": {"allOf": [{"$ref": "#/definitions/q"}]}}}}},
    "several types": {"type": ["string", "null", "integer"], "maximum": 5, "maxLength": 2},
    "whole of two": {"type": ["integer", "null"], "allOf": [{"type": ["number", "integer", "string"]}]},
    "whole of several": {"type": "integer", "anyOf": [{"type": ["number", "null"]}, {"type": "number", "minimum": 3}]},
    "typed enum": {"type": "integer", "enum": [1, "one", 2.0, 12, 123]},
    "bounded enum": {"enum": ["a", "abc", 3, 7, [1], [1, 2], {}, None], "maxLength": 2, "exclusiveMinimum": 3,
        "minItems": 2, "minProperties": 1},
    "far bounds": {"enum": ["a", 1, 2, 3], "maxLength": 2147483647, "maximum": 1e300, "minimum": 1,
        "exclusiveMinimum": True},
    "no limit": {"properties": {"a": {"type": "string", "maxLength": 2147483647}, "b": {"type": "array", "items": {},
        "minItems": 1, "maxItems": 9223372036854775807}}, "required": ["a"]},
    "enum and constant": {"allOf": [{"enum": ["a", "b", 1]}, {"type": "string"}], "anyOf": [{"const": "a"}, {}]},
    "const object": {"const": {"a": [1, 2.5, None, "é\n"]}},
    "integers": {"type": "integer", "minimum": -12, "exclusiveMaximum": 345},
    "negative": {"type": "integer", "maximum": -7},
    "large": {"type": "integer", "minimum": 999},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "open share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "narrow": {"type": "number", "minimum": 1.25, "maximum": 1.375},
    "decimals": {"type": "number", "minimum": -2.5, "exclusiveMaximum": 10.05},
    "below": {"type": "number", "maximum": -0.5},
    "one number": {"type": "number", "minimum": 5, "maximum": 5},
    "pattern": {"type": "string", "pattern": "^[a-c]{2}-\\d+(x|yz)?$"},
    "free pattern": {"type": "string", "pattern": "ab"},
    "alternatives": {"type": "string", "pattern": "^a|b$"},
    "escapes": {"type": "string", "pattern": '^["\\\\\\n]{1,2}$'},
    "long": {"type": "string", "minLength": 100, "maxLength": 130},
    "blanks": {"type": "string", "pattern": "^\\s\\S[^\\s].$"},
    "whole": {"properties": {"a": {"type": "number", "multipleOf": 1}, "b": {"multipleOf": 1.0, "enum": [1.5, 2, "x"]}},
        "required": ["a"]},
    "undeclared": {"required": ["a", "b"], "additionalProperties": {"type": "integer"}},
    "percents": {"$defs": {"A<B c>": {"type": "null"}}, "$ref": "#/$defs/A%3CB%20c%3E"},
    "slashes": {"properties": {"a/b": {"type": "null"}, "a~b": {"$ref": "#/properties/a~1b"}}, "required": ["a~b"]},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_text_fits_its_schema(name: str) -> None:
    grammar = schema(json.dumps(SCHEMAS[name]))
    validator = jsonschema.Draft202012Validator(SCHEMAS[name])
    rng = random.Random(name)
    texts = [text for _ in range(25) if (text := random_text(grammar, rng)) is not None]
    assert len(texts) > 5
    for text in texts:
        validator.validate(json.loads(text))


FITTING: dict[str, list[str]] = {
    "person": [
        '{"name": "Ann", "tags": []}',
        '{\n  "name":"é",\n  "age": 120,\n  "tags": ["ab","b"],\n  "ok": true\n}',
    ],
    "tree": ['{"value":1,"children":[{"value":-2.5e3},{"value":0,"children":[]}]}'],
    "all optional": ["{}", '{"a":1}', '{"b":2}', '{"c": 3}', '{"a":1,"c":3}', '{"a": 1, "b": 2, "c": 3}'],
    "open": ["{}", '{"a":null}', '{"x":1}', '{"a":null,"ab":2}', '{"abc":null,"abcd":1}', '{"b":7,"aa":8}'],
    "open required": ['{"x":null,"y":[1],"z":{}}'],
    "counted": ['{"a":true}', '{"a":true,"b":false}'],
    "anything": ["null", "[]", '{"a":[1,{"b":"\\u00e9"}]}', "-0.5E+10", '""'],
    "tuple": ["[1]", '[1, "a"]'],
    "tuple and more": ['["h",null]', '["h",null,null,null]'],
    "no items": ["[]"],
    "union": ["17", '"abc"', "null"],
    "union with siblings": ['{"k":"a","x":null}', '{"k":"b","y":0}', '{"k":"b"}'],
    "all of": ['{"a":true,"b":null}'],
    "one all of": ['{"p":{"p":{"p":{}}}}'],
    "several types": ["null", "5", "-3", '"ab"'],
    "whole of two": ["12"],
    "whole of several": ["12"],
    "typed enum": ["1", "2.0", "12", "123"],
    "bounded enum": ['"a"', "7", "[1, 2]", "null"],
    "far bounds": ['"a"', "2", "3"],
    "no limit": ['{"a":"abc","b":[1]}'],
    "enum and constant": ['"a"', '"b"'],
    "const object": ['{"a": [1, 2.5, null, "é\\n"]}'],
    "integers": ["-12", "0", "344", "99", "-1"],
    "share": ["0", "1", "0.5", "1.0", "0.001", "1.00"],
    "open share": ["0.5", "0.0001", "0.99"],
    "narrow": ["1.25", "1.3", "1.375", "1.3750", "1.2500"],
    "decimals": ["-2.5", "-2.50", "0", "10.04999", "10", "10.0", "-1.9"],
    "one number": ["5", "5.0", "5.000"],
    "pattern": ['"ab-12"', '"cc-0yz"'],
    "free pattern": ['"ab"', '"xxaby"'],
    "alternatives": ['"axx"', '"xxb"'],
    "blanks": ['" abc"', '"\u00a0abé"'],
    "whole": ['{"a":12}', '{"a":-1,"b":2}', '{"a":0,"b":"x"}'],
    "undeclared": ['{"a":1,"b":2}', '{"a":1,"b":2,"c":3}'],
    "percents": ["null"],
    "escapes": ['"\\""', '"\\\\\\n"'],
}
UNFITTING: dict[str, list[str]] = {
    "person": ['{"name": "", "tags": []}', '{"tags":[],"name":"A"}', '{"name":"A"}', '{"name":"A","age":121,"tags":[]}',
        '{"name":"A","tags":[],}', '{"name":"A","tags":["c"]}', '{"name":"Annie","tags":[]}'],
    "all optional": ['{"a":2}', '{"d":1}', '{,"a":1}', '{"a":1 "b":2}'],
    "open": ['{"a":1}', '{"abc":3}', '{"x":null}', '{"a":null,"a":1}', '{"\\u0061":1}'],
    "open required": ['{"x":null}'],
    "counted": ["{}", '{"a":true,"b":true,"c":true}'],
    "tuple": ["[]", '["a"]', '[1,"a",2]'],
    "tuple and more": ['["h"]', '["h",null,null,null,null]', "[null,null]"],
    "no items": ["[1]"],
    "union with siblings": ['{"x":null}', '{"k":"c"}'],
    "several types": ["6", '"abc"', "true"],
    "whole of two": ["null", "1.5", '"a"'],
    "whole of several": ["null", "1.5"],
    "typed enum": ['"one"', "3", "1234"],
    "bounded enum": ['"abc"', "3", "[1]", "{}"],
    "far bounds": ["1"],
    "no limit": ['{"a":1}', '{"a":"","b":[]}'],
    "enum and constant": ["1"],
    "integers": ["-13", "345", "1000", "-0", "007", "1.5"],
    "share": ["1.1", "-0.1", "1.01", "2", "0.", "00.5", ".5"],
    "open share": ["0", "1", "0.0", "1.0", "0.000"],
    "narrow": ["1.2", "1.24999", "1.3751", "1.4", "1", "1.", "2"],
    "decimals": ["-2.51", "10.05", "10.050", "10.1", "11", "-3"],
    "one number": ["5.", "5.01", "4", "50"],
    "pattern": ['"ab-"', '"abc-1"', '"ab-1x2"'],
    "alternatives": ['"xax"'],
    "blanks": ['" \u00a0bc"', '" a\u3000c"', '" ab\u2028"'],
    "whole": ['{"a":1.5}', '{"a":1,"b":1.5}'],
    "undeclared": ['{"a":"x","b":2}', '{"a":1,"b":2,"c":"x"}'],
    "escapes": ['"a"', '"\\"\\"\\""'],
}  # fmt: skip


@pytest.mark.parametrize("name", FITTING)
def test_fitting_texts_are_taken(name: str) -> None:
    grammar = schema(json.dumps(SCHEMAS[name]))
    assert [text for text in FITTING[name] if not takes(grammar, text)] == []


@pytest.mark.parametrize("name", UNFITTING)
def test_unfitting_texts_are_not(name: str) -> None:
    grammar = schema(json.dumps(SCHEMAS[name]))
    assert [text for text in UNFITTING[name] if takes(grammar, text)] == []


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("date", "2024-02-29", "2024-13-01"),
        ("time", "23:59:59.5Z", "24:00:00Z"),
        ("date-time", "2024-02-29T01:02:03+01:00", "2024-02-29 01:02:03Z"),
        ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950E", "0f8fad5b-d9cb-469f-a165"),
    ],
)
def test_formats(form: str, good: str, bad: str) -> None:
    grammar = schema(json.dumps({"type": "string", "format": form}))
    assert takes(grammar, json.dumps(good))
    assert not takes(grammar, json.dumps(bad))
    assert takes(schema('{"type": "string", "format": "email"}'), '"anything"')


@pytest.mark.parametrize(
    ("form", "shortest", "longest"),
    [
        ("date", "2024-02-29", "2024-02-29"),
        ("time", "23:59:59Z", "23:59:59.123456789+01:00"),
        ("date-time", "2024-02-29T23:59:59Z", "2024-02-29T23:59:59.123456789+01:00"),
        ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ],
)
def test_a_length_goes_before_a_format(form: str, shortest: str, longest: str) -> None:
    least, most = len(shortest), len(longest)
    both = schema(json.dumps({"type": "string", "format": form, "minLength": least, "maxLength": most}))
    assert takes(both, json.dumps(shortest))
    assert takes(both, json.dumps(longest))
    assert not takes(both, json.dumps("x" * least))
    assert not takes(schema(json.dumps({"format": form, "maxLength": most - 1})), json.dumps(longest))
    assert not takes(schema(json.dumps({"format": form, "minLength": least + 1})), json.dumps(shortest))


def test_json_without_a_schema_is_any_object() -> None:
    grammar = GRAMMARS.compiled(Grammar(kind=GrammarKind.JSON))
    assert takes(grammar, '{"a": [1, 2.5, {"b": null}], "c": "\\u00e9 é 日本"}')
    for text in ("[]", '"a"', "1", "", '{"a":01}', '{"a":"\n"}', "{} ", '{"a":"\\ud800"}'):
        assert not takes(grammar, text)
    rng = random.Random(1)
    for _ in range(50):
        drawn = random_text(grammar, rng)
        assert drawn is None or isinstance(json.loads(drawn), dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ('{"type": "object"', "is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "JSON schema, #: a schema must be an object, true or false"),
        ("false", "matches nothing"),
        ('{"type": "strin"}', "#: there is no type 'strin'"),
        ('{"properties": {"a": {"not": {}}}}', "#/properties/a: 'not' is not supported"),
        ('{"items": {"uniqueItems": true}}', "#/items: 'uniqueItems' is not supported"),
        ('{"$ref": "https://example.com/x"}', "leads out of the schema"),
        ('{"$ref": "#/$defs/x"}', "points to nothing"),
        ('{"$ref": "#"}', "matches nothing"),
        ('{"properties": {"a": {"$ref": "#"}}, "required": ["a"]}', "matches nothing"),
        ('{"allOf": [{"$ref": "#"}, {"type": "null"}]}', "leads back to itself"),
        ('{"enum": []}', "no value of 'enum'"),
        ('{"anyOf": {}}', "'anyOf' must be a list"),
        ('{"anyOf": []}', "at least one entry"),
        ('{"type": "string", "enum": [1]}', "no value of 'enum'"),
        ('{"type": "string", "const": 1}', "no value of 'const'"),
        ('{"allOf": [{"const": 1}, {"enum": [2]}]}', "no value of 'const'"),
        ('{"const": "abc", "maxLength": 2}', "no value of 'const'"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "at least 3 and at most 2"),
        ('{"type": "string", "minLength": -1}', "'minLength' must be a whole number"),
        ('{"type": "string", "pattern": "a(b"}', "pattern, character 4: a group is not closed"),
        ('{"type": "string", "pattern": "(?=a)"}', "only '(?:' is supported"),
        ('{"type": "string", "pattern": "\\\\bword"}', "'\\b' is not supported"),
        ('{"type": "string", "pattern": "a", "minLength": 3}', "together with a length"),
        ('{"type": "integer", "minimum": 5, "maximum": 4}', "no number lies between 5 and 4"),
        ('{"type": "number", "minimum": 1e300}', "more than 18 digits"),
        ('{"const": 1e400}', "1e400 is out of range"),
        ('{"const": NaN}', "NaN is out of range"),
        ('{"const": ' + "1" * 5000 + "}", "is not JSON"),
        ('{"const": "\\ud800"}', "surrogate"),
        ('{"type": "number", "minimum": "1"}', "'minimum' must be a number"),
        ('{"properties": []}', "'properties' must be an object"),
        ('{"properties": {"a": {}}, "minProperties": 1}', "property counts"),
        ('{"allOf": [{"pattern": "a"}, {"pattern": "b"}]}', "two demands for 'pattern'"),
        ('{"allOf": [{"type": "string"}, {"type": "null"}]}', "no type is left"),
        ('{"type": ["number", "integer"], "allOf": [{"type": "string"}]}', "no type is left"),
        ('{"items":' * 60 + "{}" + "}" * 60, "nested more than"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(TwdError, match=re.escape(message)) as caught:
        schema(text)
    assert caught.value.code is FailureCode.BAD_GRAMMAR


def chained(link: dict[str, Any], levels: int = 40, **end: Any) -> str:
    """A schema of a few KB in which each link refers to the next, where it says NEXT."""
    links = {f"l{i}": json.loads(json.dumps(link).replace("NEXT", f"#/$defs/l{i + 1}")) for i in range(levels)}
    return json.dumps({"$ref": "#/$defs/l0", "$defs": {**links, f"l{levels}": end}})


NEXT = {"$ref": "NEXT"}
TWICE = {"allOf": [{"properties": {"p": NEXT, "q": NEXT}}, {"properties": {"p": {"title": "P", **NEXT}, "q": NEXT}}]}


ENDLESS = [
    chained({"type": "object", "anyOf": [NEXT, NEXT]}, properties={"x": {}}),
    chained({"type": "integer", "anyOf": [NEXT, NEXT]}, minimum=123456789012345678, maximum=987654321098765432),
    chained({"type": "string", "anyOf": [NEXT, NEXT]}, pattern=f"[{'a' * 50_000}]"),
    chained({"type": "string", "anyOf": [NEXT, NEXT]}, enum=["a", *range(20_000)]),
    json.dumps({"properties": {"n" * 100_000: {"properties": {f"p{i}": {} for i in range(8000)}}}}),
    json.dumps({"properties": {"n" * 200_000: {}}, "additionalProperties": True}),
    json.dumps({"enum": ["x" * 100_000], "anyOf": [{"type": "null"}] * 10_000}),
    json.dumps({"enum": list(range(2000)), "type": ["integer"] * 2000}),
    json.dumps({"enum": [[None] * 2000], "items": {f"x-{i}": i for i in range(2000)}}),
    json.dumps({"enum": [[None] * 2000], "items": {"prefixItems": [{}] * 2000}}),
]
QUICK = (0, 4, 9)
"""One of each kind: to unfold so much takes its time."""


@pytest.mark.parametrize(
    "text",
    [
        text if number in QUICK else pytest.param(text, marks=pytest.mark.thorough)
        for number, text in enumerate(ENDLESS)
    ],
    ids=range(len(ENDLESS)),
)
def test_a_schema_that_asks_for_endless_work_is_refused(text: str) -> None:
    with pytest.raises(TwdError, match="unfolds to more than 400000 parts; ask for fewer") as caught:
        schema(text)
    assert caught.value.code is FailureCode.BAD_GRAMMAR


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (chained({"allOf": [NEXT, NEXT]}, properties={"x": {"type": "null"}}), '{"x":null}', '{"x":1}'),
        (chained(TWICE, 12, type="null"), '{"p":{"q":{}}}', '{"p":1}'),
        (json.dumps({"type": ["null"] * 20_000, "enum": [None] * 20_000}), "null", "1"),
    ],
)
def test_what_is_said_many_times_is_read_once(text: str, good: str, bad: str) -> None:
    grammar = schema(text)
    assert takes(grammar, good)
    assert not takes(grammar, bad)


def test_lists_of_many_thousands_are_merged() -> None:
    numbers, names = list(range(18_000)), [f"p{i}" for i in range(18_000)]
    both = {"allOf": [{"enum": [*numbers, "a"]}, {"enum": ["a", *(-n - 1 for n in numbers)]}]}
    assert takes(schema(json.dumps(both)), '"a"')
    with pytest.raises(TwdError, match="no type is left"):
        schema(json.dumps({"allOf": [{"required": names}, {"required": names[::-1]}, {"type": []}]}))


KEYWORDS = st.sampled_from(
    [
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "properties", "required", "items", "a"),
        *("prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "minimum", "not"),
        *("exclusiveMaximum", "minProperties", "uniqueItems", "additionalProperties"),
    ]
)
WORTHS = ["object", "array", "string", "integer", "number", "null", "#", "#/$defs/a", "^a+$", "uuid", "("]
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(
            ["object", "array", "string", "integer", "number", "null", "#", "#/$defs/a", "^a+$", "uuid", "("]
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYWORDS, VALUES, max_size=6))
@examples(400)
def test_any_json_is_a_schema_or_a_typed_failure(document: dict[str, Any]) -> None:
    try:
        random_text(schema(json.dumps(document)), random.Random(1), longest=20)
    except TwdError as error:
        if error.code is not FailureCode.BAD_GRAMMAR:
            raise
