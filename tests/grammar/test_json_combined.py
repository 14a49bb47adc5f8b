"""Schemas made of others (allOf, anyOf, oneOf, references) mean what the standard says, no more and no less."""

import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.grammar.made import random_text, schema, takes
from tests.properties import examples
from twd.structured_output.compiled import CompiledGrammar
from twd.wire.failures import TwdError

NAME, AGE = {"name": {"type": "string"}}, {"age": {"type": "integer"}}
CLOSED_NAME = {"properties": NAME, "additionalProperties": False}


@pytest.mark.parametrize(
    ("document", "good", "bad"),
    [
        # a branch that nothing fits
        ({"anyOf": [{"const": "a", "enum": ["b"]}, {"type": "null"}]}, ["null"], ['"a"', '"b"']),
        ({"type": "integer", "anyOf": [{"minimum": 5, "maximum": 4}, {"minimum": 7}]}, ["7"], ["4", "5"]),
        ({"type": ["string", "null"], "minLength": 2, "maxLength": 1}, ["null"], ['""', '"ab"']),
        ({"anyOf": [False, {"allOf": [False, {"type": "null"}]}, {"const": 1}]}, ["1"], ["null"]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "type": "null"}, ["null"], ['"a"']),
        ({"anyOf": [{"minItems": 2, "maxItems": 1}, {"type": "integer", "minimum": 1.2, "maximum": 1.8}, {"const": 0}]},
            ["0"], ["[]", "1", "2"]),
        ({"properties": {"a": {"type": "string", "enum": [1]}, "b": {"const": 1}}}, ["{}", '{"b":1}'], ['{"a":1}']),
        ({"type": "array", "items": {"enum": []}}, ["[]"], ["[1]", "[null]"]),
        # parts that are closed
        ({"allOf": [CLOSED_NAME, {"properties": AGE}]}, ["{}", '{"name":"a"}'], ['{"age":1}', '{"name":"a","age":1}']),
        ({"allOf": [CLOSED_NAME, CLOSED_NAME | {"properties": NAME | AGE}]}, ['{"name":"a"}'], ['{"age":1}']),
        ({"allOf": [{"properties": {"a": {"minimum": 1, "type": "integer"}},
                     "additionalProperties": {"type": "integer"}},
                    {"properties": {"b": {"minimum": 5}}, "additionalProperties": {"maximum": 9, "type": "integer"}}]},
            ['{"a":9,"b":12,"c":9}'], ['{"a":10}', '{"a":0}', '{"b":4}', '{"b":5.5}', '{"c":10}']),
        ({"properties": {"a": {}}, "additionalProperties": False, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            ['{"a":1}'], ["{}", '{"b":1}', '{"a":1,"b":1}']),
        # arrays
        ({"allOf": [{"prefixItems": [{"type": "integer"}], "items": {"type": "null"}},
                    {"items": {"type": ["integer", "null"], "minimum": 3}}]},
            ["[3,null]", "[]"], ["[1]", "[null]", "[3,4]"]),
        ({"allOf": [{"prefixItems": [{}, {"const": 1}]}, {"prefixItems": [{"const": 0}], "items": False}]},
            ["[0]", "[]"], ["[0,1]", "[1]"]),
        # what is equal in Python is not in JSON
        ({"anyOf": [{"allOf": [{"const": True}, {"const": 1}]}, {"const": 0}]}, ["0"], ["true", "1"]),
        ({"allOf": [{"enum": [True, 2]}, {"enum": [1, 2]}]}, ["2"], ["true", "1"]),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": True}}}]},
            ["{}"], ['{"a":1}', '{"a":true}']),
        # what stands beside given values
        ({"enum": ["a", "ab", "b"], "pattern": "^a"}, ['"a"', '"ab"'], ['"b"']),
        ({"enum": ["a", "é\n\\"], "pattern": "\\\\$"}, ['"é\\n\\\\"'], ['"a"']),
        ({"enum": [1, "a"], "pattern": "[^\\s\\S]"}, ["1"], ['"a"']),
        ({"enum": [{"a": 1}, {"a": "x"}, {"b": 1}, 5], "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            ['{"a": 1}', "5"], ['{"a": "x"}', '{"b": 1}']),
        ({"enum": [{"a": 1}, {"b": 1}], "properties": {"a": {}}, "additionalProperties": False},
            ['{"a": 1}'], ['{"b": 1}']),
        ({"enum": [[1], [1, "a"], ["a"]], "prefixItems": [{"type": "integer"}], "items": False},
            ["[1]"], ['[1, "a"]', '["a"]']),
        ({"enum": ["a", 1, None], "anyOf": [{"type": "string"}, {"$ref": "#/$defs/no"}], "$defs": {"no": {"const": 1}}},
            ['"a"', "1"], ["null"]),
        # bounds as draft 4 wrote them
        ({"type": "integer", "allOf": [{"minimum": 1, "exclusiveMinimum": False}, {"exclusiveMinimum": -5}]},
            ["1"], ["0", "-4"]),
        ({"type": "integer", "allOf": [{"minimum": 3, "exclusiveMinimum": True}, {"minimum": 4}]}, ["4"], ["3"]),
        # several of a kind
        ({"allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 2}, {"const": 3}]}]},
            ["2"], ["1", "3"]),
        ({"allOf": [{"x-note": 1, "type": "null"}, {"x-note": 2}]}, ["null"], ["1"]),
        # exactly one, where values are listed
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}, {"const": 4}]}, ["1", "3", "4"], ["2"]),
        ({"oneOf": [{"const": "auto"}, {"type": "integer"}, {"enum": ["auto", "no", 7]}]}, ['"no"', "7", "1"],
            ['"auto"']),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["1", "1.5"], ['"a"']),
        # references that lead back
        ({"$ref": "#/$defs/node", "$defs": {
            "named": {"type": "object", "properties": {"next": {"type": "object"}}},
            "node": {"allOf": [{"$ref": "#/$defs/named"}, {"properties": {"next": {"$ref": "#/$defs/node"}}}]}}},
            ["{}", '{"next":{"next":{"next":{}}}}'], ['{"next":1}', '{"next":{"next":1}}']),
        # names that rules could be called by
        ({"properties": {"x": {"properties": {"q": {"const": 1}}}, "x first 0": {"const": 2}, "x'": {"const": 3}}},
            ['{"x":{"q":1},"x first 0":2}'], ['{"x":2}']),
    ],
)  # fmt: skip
def test_combined(document: Any, good: list[str], bad: list[str]) -> None:
    grammar = schema(json.dumps(document))
    assert [text for text in good if not takes(grammar, text)] == []
    assert [text for text in bad if takes(grammar, text)] == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"anyOf": [{"const": 1, "type": "string"}, False]}, "#/anyOf/0: no value of 'const' fits"),
        ({"oneOf": [{"const": 1}, {"enum": [1]}]}, "#/oneOf/0: no value of 'const' fits"),
        ({"required": ["b"], "properties": {"a": {}}, "additionalProperties": False},
            "#: the property 'b' is required"),
        ({"properties": {"a": {"properties": {"b": {"enum": []}}, "required": ["b"]}}, "required": ["a"]},
            "#/properties/a/properties/b: no value of 'enum'"),
        ({"allOf": [CLOSED_NAME, {"properties": AGE, "required": ["age"]}]}, "#: the property 'age' is required"),
        ({"properties": {"p": {"allOf": [{"pattern": "a"}, {"pattern": "b"}]}}},
            "#/properties/p: two demands for 'pattern'"),
    ],
)  # fmt: skip
def test_where_nothing_is_left_the_place_is_named(document: Any, message: str) -> None:
    with pytest.raises(TwdError, match=re.escape(message)):
        schema(json.dumps(document))


SCALARS = st.sampled_from([None, True, False, 0, 1, 2, 0.5, "", "a", "b", "ab"])
POOL = [
    *[None, True, False, -1, 0, 1, 2, 3, 0.5, "", "a", "b", "ab", "abc", [], [0], ["a"], [1, "a"], [None, 1, 2], [[]]],
    *[{}, {"a": 0}, {"a": "a"}, {"b": 1}, {"a": 1, "b": None}, {"c": 2}, {"a": True, "c": "b"}, {"a": {"a": 1}}],
]
BOUNDS = st.integers(0, 3)
NAMES = st.lists(st.sampled_from("abc"), max_size=2, unique=True)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these keywords."""
    return st.fixed_dictionaries({}, optional=fields)


LISTED = st.one_of(
    st.builds(lambda value: {"const": value}, SCALARS | st.sampled_from(POOL)),
    st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from(POOL), min_size=1, max_size=4)),
)
PLAIN = st.one_of(
    LISTED,
    st.builds(
        lambda kind, more: {"type": kind, **more},
        st.sampled_from(["integer", "number", "string", "null", "boolean", ["string", "null"], ["number", "boolean"]]),
        some(minimum=BOUNDS, maximum=BOUNDS, exclusiveMaximum=BOUNDS, minLength=BOUNDS, maxLength=BOUNDS),
    ),
)


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    some_properties = st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    return st.one_of(
        st.builds(
            lambda more, open_: {"type": "object", "additionalProperties": open_, **more},
            some(properties=some_properties, required=NAMES),
            st.booleans() | inner,
        ),
        st.builds(
            lambda more: {"type": "array", **more},
            some(prefixItems=st.lists(inner, max_size=2), items=inner | st.just(False), minItems=BOUNDS),
        ),
        st.builds(lambda part, beside: {**beside, "allOf": part}, several, PLAIN | inner),
        st.builds(lambda part, beside: {**beside, "anyOf": part}, several, st.just({}) | inner),
        st.builds(lambda part, beside: {**beside, "oneOf": part}, st.lists(LISTED, min_size=1, max_size=3), inner),
        st.builds(lambda beside: {**beside, "$ref": "#/$defs/x"}, st.just({}) | PLAIN),
        LISTED,
    )


SCHEMAS = st.recursive(PLAIN, composed, max_leaves=6)
DOCUMENTS = st.builds(lambda whole, x: {**whole, "$defs": {"x": x}}, SCHEMAS, SCHEMAS)


def written(value: Any) -> Iterator[str]:
    """A value with its properties in any order."""
    match value:
        case list():
            for items in itertools.product(*map(written, value)):
                yield f"[{','.join(items)}]"
                yield f"[{', '.join(items)}]"
        case dict():
            for order in itertools.permutations(value):
                for items in itertools.product(*(written(value[name]) for name in order)):
                    yield "{" + ", ".join(f'"{name}": {item}' for name, item in zip(order, items, strict=True)) + "}"
        case _:
            yield json.dumps(value)


def made(document: Any) -> CompiledGrammar | None:
    """None where nothing fits it; what is refused for another reason is no example."""
    try:
        return schema(json.dumps(document))
    except TwdError as error:
        reasons = ("no value of", "may not be there", "no type is left", "no number lies", "has at least")
        assume(any(reason in str(error) for reason in (*reasons, "matches nothing", "characters")))
        return None


@given(document=DOCUMENTS, seed=st.integers(0, 99))
@examples(300)
def test_the_language_is_what_the_schema_means(document: dict[str, Any], seed: int) -> None:
    validator = jsonschema.Draft202012Validator(document)
    grammar = made(document)
    try:
        fitting = [value for value in POOL if validator.is_valid(value)]
    except RecursionError:  # a reference that leads to itself
        return
    if grammar is None:
        assert fitting == []
        return
    assert [value for value in fitting if not any(takes(grammar, text) for text in written(value))] == []
    rng = random.Random(seed)
    for text in (random_text(grammar, rng, longest=80) for _ in range(4)):
        if text is not None:
            validator.validate(json.loads(text))
