"""JSON Schema as rules: every text they allow is JSON that fits the schema."""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from twd.engine.grammars.json_keywords import (
    NEVER,
    Schema,
    checked,
    constrains,
    count_of,
    entries_of,
    is_of_type,
    plain,
    schema_error,
    steps_of,
    types_of,
)
from twd.engine.grammars.json_merge import common, merged, weight
from twd.engine.grammars.json_rules import (
    NOTHING,
    SPACE,
    STRING,
    VALUE,
    chain,
    enclosed,
    filled,
    json_rules,
    key_other_than,
    literal,
    literals,
    maybe,
    member,
    rule,
    separated,
)
from twd.engine.grammars.json_scalars import fits, number_rule, string_rule
from twd.engine.grammars.rules import EMPTY, Choice, Expr, Repeat, Text, bad_grammar, size

_DEPTH_MAX = 48
_PARTS_MAX = 400_000
"""Of schemas read and merged, and of rules made; about two microseconds each."""
_CHARACTERS_PER_PART = 256
"""Of a rule's name: it holds the way to its schema."""


def parse(text: str) -> dict[str, Expr]:
    """The rules of a schema; raises BAD_GRAMMAR with the place of what is wrong or cannot be enforced."""
    try:
        document = json.loads(text, parse_float=_number, parse_constant=_number)
        return _Reader(document).rules()
    except UnicodeEncodeError:
        raise bad_grammar("The JSON schema holds half of a surrogate pair, which is no character.") from None
    except ValueError as error:
        raise bad_grammar(f"The JSON schema is not JSON: {error}.") from None
    except RecursionError:
        raise bad_grammar("The JSON schema is nested too deep.") from None


def any_object() -> dict[str, Expr]:
    """The rules of any JSON object."""
    return json_rules() | {"root": rule("object")}


class _Reader:
    def __init__(self, document: object) -> None:
        self._document = document
        self._rules = json_rules()
        self._read: dict[str, object] = {}
        self._flats: dict[int, tuple[object, Schema | None]] = {}
        """What became of schemas that were flattened, by their ids, with the schemas themselves, so that these stay;
        None while it is worked at."""
        self._depth = 0
        self._parts = 0

    def rules(self) -> dict[str, Expr]:
        """Everything that the root needs."""
        self._add("root", self._of(self._document, "#"))
        return self._rules

    def _add(self, name: str, expr: Expr) -> None:
        self._count(size(expr) + len(name) // _CHARACTERS_PER_PART)
        self._rules[name] = expr

    def _count(self, parts: int) -> None:
        """A small schema can ask for endless work: references that double with each step, names that are repeated."""
        self._parts += parts
        if self._parts > _PARTS_MAX:
            advice = "ask for fewer alternatives and combinations, or for shorter names"
            raise bad_grammar(f"The JSON schema unfolds to more than {_PARTS_MAX} parts; {advice}.")

    def _of(self, schema: object, at: str) -> Expr:
        """A rule of its own for each schema, so that nesting in the schema is none in the rules."""
        while at in self._read and self._read[at] is not schema:
            at += "'"
        if at not in self._read:
            self._read[at] = schema
            self._depth += 1
            if self._depth > _DEPTH_MAX:
                raise schema_error(at, f"schemas are nested more than {_DEPTH_MAX} deep")
            found = checked(schema, at)
            self._count(weight(found))
            self._add(at, self._expr(found, at))
            self._depth -= 1
        return rule(at)

    def _expr(self, schema: Schema, at: str) -> Expr:
        if schema is NEVER:
            return NOTHING
        if "$ref" in schema or "allOf" in schema:
            return self._combined(schema, at)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._any_of(schema, key, at)
        if "const" in schema or "enum" in schema:
            return self._given(schema, at)
        return Choice(tuple(self._typed(kind, schema, at) for kind in types_of(schema, at)))

    def _combined(self, schema: Schema, at: str) -> Expr:
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = entries_of(schema.get("allOf", []), f"{at}/allOf", empty="$ref" in schema)
        if not constrains(rest):
            if "$ref" in schema and not parts:
                return self._of(*self._resolved(schema["$ref"], at))
            if "$ref" not in schema and len(parts) == 1:
                return self._of(parts[0], f"{at}/allOf/0")
        return self._expr(checked(self._flat(schema, at), at), at)

    def _flat(self, schema: object, at: str) -> Schema:
        """The schema with its references and `allOf` merged into it."""
        if id(schema) not in self._flats:
            self._flats[id(schema)] = schema, None
            self._flats[id(schema)] = schema, self._flattened(schema, at)
        flat = self._flats[id(schema)][1]
        if flat is None:
            raise schema_error(at, "a reference to this leads back to itself")
        return flat

    def _flattened(self, schema: object, at: str) -> Schema:
        own = dict(checked(schema, at))
        parts: list[Schema] = []
        if "$ref" in own:
            parts.append(self._flat(*self._resolved(own.pop("$ref"), at)))
        for index, part in enumerate(entries_of(own.pop("allOf", []), f"{at}/allOf", empty=True)):
            parts.append(self._flat(part, f"{at}/allOf/{index}"))
        for part in parts:
            own = merged(own, part, lambda message: schema_error(at, message))
            self._count(weight(own))
        return own

    def _resolved(self, reference: str, at: str) -> tuple[object, str]:
        """What a reference inside the document points to, and the place."""
        if reference != "#" and not reference.startswith("#/"):
            raise schema_error(at, f"the reference {reference!r} leads out of the schema; only '#/...' is supported")
        target: object = self._document
        names = steps_of(reference)
        self._count(len(names))
        for name in names:
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise schema_error(at, f"the reference {reference!r} points to nothing")
        return target, reference

    def _any_of(self, schema: Schema, key: str, at: str) -> Expr:
        shared = {name: value for name, value in schema.items() if name != key}
        options = []
        for index, option in enumerate(entries_of(schema[key], f"{at}/{key}")):
            whole = {"allOf": [shared, option]} if constrains(shared) else option
            options.append(self._of(whole, f"{at}/{key}/{index}"))
        return Choice(tuple(options))

    def _given(self, schema: Schema, at: str) -> Expr:
        """The values of `const` or `enum` that keep to what stands beside it."""
        key = "const" if "const" in schema else "enum"
        values = [schema["const"]] if key == "const" else entries_of(schema["enum"], f"{at}/enum")
        if key == "const" and "enum" in schema:
            values = common(values, entries_of(schema["enum"], f"{at}/enum"))
        if "type" in schema:
            kinds = types_of(schema, at)
            values = [value for value in values if any(is_of_type(value, kind) for kind in kinds)]
        values = [value for value in values if fits(value, schema)]
        if not values:
            raise schema_error(at, f"no value of '{key}' has the type and the size that are asked for")
        return literals(map(plain, values))

    def _typed(self, kind: str, schema: Schema, at: str) -> Expr:
        match kind:
            case "object":
                return self._object(schema, at)
            case "array":
                return self._array(schema, at)
            case "string":
                self._count(len(schema.get("pattern", "")))
                return string_rule(schema, at)
            case "number" | "integer":
                return number_rule(schema, at, kind)
            case "boolean":
                return Choice((Text(b"true"), Text(b"false")))
            case "null":
                return Text(b"null")
        return VALUE

    def _object(self, schema: Schema, at: str) -> Expr:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        undeclared = schema.get("additionalProperties") or True
        declared = {**properties, **{name: undeclared for name in required if name not in properties}}
        more = schema.get("additionalProperties", not properties)
        least, most = count_of(schema, "minProperties", at) or 0, count_of(schema, "maxProperties", at)
        entries = [
            (member(literal(name), self._of(part, f"{at}/properties/{_step(name)}")), name in required)
            for name, part in declared.items()
        ]
        if more is False:
            if least > len(required) or (most is not None and most < len(declared)):
                raise schema_error(at, "property counts can only be enforced where all properties are free")
            return enclosed(b"{", self._entries(entries, EMPTY, EMPTY, at), b"}")
        extra = member(self._key_other_than(declared, at), self._of(more, f"{at}/additionalProperties"))
        if declared and (least or most is not None):
            raise schema_error(at, "property counts can only be enforced where all properties are free")
        if not declared:
            return enclosed(b"{", _items(extra, least, most), b"}")
        follow = Repeat(separated(extra), 0, None)
        return enclosed(b"{", self._entries(entries, maybe(filled(chain(extra, follow))), follow, at), b"}")

    def _key_other_than(self, names: Mapping[str, object], at: str) -> Expr:
        if not names:
            return STRING
        for name, expr in key_other_than(f"{at} keys", names):
            self._add(name, expr)
        return rule(f"{at} keys")

    def _entries(self, entries: Sequence[tuple[Expr, bool]], alone: Expr, follow: Expr, at: str) -> Expr:
        """Entries in their order, of which some may be left out; `alone` or `follow` stands for all further ones.

        Each has two rules: what comes from here on when nothing was written yet, and when something was.
        """
        first: Expr = alone
        later: Expr = chain(follow, SPACE)
        for index, (entry, needed) in reversed(list(enumerate(entries))):
            begun = chain(entry, later)
            self._add(f"{at} first {index}", begun if needed else Choice((begun, first)))
            joined = chain(separated(entry), later)
            self._add(f"{at} later {index}", joined if needed else Choice((joined, later)))
            first, later = rule(f"{at} first {index}"), rule(f"{at} later {index}")
        return first

    def _array(self, schema: Schema, at: str) -> Expr:
        places = schema.get("prefixItems", [])
        items = schema.get("items", True)
        if isinstance(items, list):
            places, items = items, True
        heads = [self._of(part, f"{at}/prefixItems/{i}") for i, part in enumerate(entries_of(places, at, empty=True))]
        least, most = count_of(schema, "minItems", at) or 0, count_of(schema, "maxItems", at)
        if items is False:
            most = len(heads) if most is None else min(most, len(heads))
        if most is not None and least > most:
            raise schema_error(at, f"no array has at least {least} and at most {most} items")
        item = self._of(items, f"{at}/items")
        if not heads:
            return enclosed(b"[", _items(item, least, most), b"]")
        heads = heads[:most]
        rest_least, rest_most = max(0, least - len(heads)), None if most is None else most - len(heads)
        tail: Expr = chain(Repeat(separated(item), rest_least, rest_most), SPACE)
        for index, head in reversed(list(enumerate(heads))):
            joined = chain(separated(head) if index else head, tail)
            stop = SPACE if index else EMPTY
            self._add(f"{at} from {index}", joined if index < least else Choice((joined, stop)))
            tail = rule(f"{at} from {index}")
        return enclosed(b"[", tail, b"]")


def _items(item: Expr, least: int, most: int | None) -> Expr:
    """That many items with commas between them."""
    if most == 0:
        return EMPTY
    some = filled(chain(item, Repeat(separated(item), max(0, least - 1), None if most is None else most - 1)))
    return some if least else maybe(some)


def _step(name: str) -> str:
    """A property's name as a step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _number(written: str) -> Decimal:
    if not math.isfinite(float(written)):
        raise ValueError(f"{written} is out of range")
    return Decimal(written)
