"""JSON Schema as rules: every text they allow is JSON that fits the schema; but `oneOf` is read as `anyOf`, apart from
values that its branches list and that fit several of them."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial

from twd.grammar.json.keywords import (
    NEVER,
    NothingFits,
    Schema,
    checked,
    constrains,
    count_of,
    entries_of,
    places_of,
    plain,
    schema_error,
    steps_of,
    types_of,
)
from twd.grammar.json.merge import SchemaMerger, common, weight
from twd.grammar.json.rules import (
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
from twd.grammar.json.scalars import number_rule, string_rule
from twd.grammar.json.values import ValueMatcher
from twd.grammar.program import possible
from twd.grammar.rules import EMPTY, Alternation, Expr, Repeat, Terminal, bad_grammar, flattened, size

_DEPTH_MAX = 48
_PARTS_MAX = 400_000
"""Of schemas read and merged, and of rules made; about two microseconds each."""
_CHARACTERS_PER_PART = 256
"""Of a rule's name: it holds the way to its schema."""


def parse(text: str) -> dict[str, Expr]:
    """The rules of a schema; raises BAD_GRAMMAR with the place of what is wrong or cannot be enforced."""
    with _told():
        made = SchemaRules(_decoded(text))
        return made.rules(made.of(made.document, "#"))


def parse_several(text: str, root: Callable[["SchemaRules", list[object]], Expr]) -> dict[str, Expr]:
    """The rules of what `root` makes of a list of schemas; references in these lead to places in the list."""
    with _told():
        document = _decoded(text)
        made = SchemaRules(document)
        return made.rules(root(made, entries_of(document, "#")))


def _decoded(text: str) -> object:
    return json.loads(text, parse_float=_number, parse_constant=_number)


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong is told as what it is."""
    try:
        yield
    except UnicodeEncodeError:
        raise bad_grammar("The JSON schema holds half of a surrogate pair, which is no character.") from None
    except ValueError as error:
        raise bad_grammar(f"The JSON schema is not JSON: {error}.") from None
    except RecursionError:
        raise bad_grammar("The JSON schema is nested too deep.") from None


def any_object() -> dict[str, Expr]:
    """The rules of any JSON object."""
    return json_rules() | {"root": rule("object")}


class SchemaRules:
    """The rules of schemas in one document, as they are asked for."""

    def __init__(self, document: object) -> None:
        self.document = document
        self._rules = json_rules()
        self._named: dict[int, tuple[object, str]] = {}
        """The rules of schemas, by their ids, with the schemas themselves, so that these stay."""
        self._names: set[str] = set()
        self._flats: dict[int, tuple[object, Schema | None]] = {}
        """What became of schemas that were flattened, by their ids, with the schemas; None while it is worked at."""
        self._merger = SchemaMerger()
        self._fitting = ValueMatcher(self.resolved, self._count)
        self._unfit: list[NothingFits] = []
        """Why nothing fits some parts of the schema."""
        self._owners = 0
        self._depth = 0
        self._parts = 0

    def named(self, name: str) -> Expr:
        """What a rule says that is there by now."""
        return self._rules[name]

    def rules(self, root: Expr) -> dict[str, Expr]:
        """Everything that the root needs."""
        self.add("root", root)
        if self._unfit and not possible(flattened(self._rules, "root")):
            raise self._unfit[0]
        return self._rules

    def add(self, name: str, expr: Expr) -> None:
        """One more rule, or another in place of one."""
        self._count(size(expr) + len(name) // _CHARACTERS_PER_PART)
        self._rules[name] = expr

    def _count(self, parts: int) -> None:
        """A small schema can ask for endless work: references that double with each step, names that are repeated."""
        self._parts += parts
        if self._parts > _PARTS_MAX:
            advice = "ask for fewer alternatives and combinations, or for shorter names"
            raise bad_grammar(f"The JSON schema unfolds to more than {_PARTS_MAX} parts; {advice}.")

    def of(self, schema: object, at: str) -> Expr:
        """What the schema at this place describes; it has a rule of its own, so that nesting in it is none in the
        rules."""
        if id(schema) not in self._named:
            while at in self._names:
                at += "'"
            self._names.add(at)
            self._named[id(schema)] = schema, at
            self._depth += 1
            if self._depth > _DEPTH_MAX:
                raise schema_error(at, f"schemas are nested more than {_DEPTH_MAX} deep")
            found = checked(schema, at)
            self._count(weight(found))
            self.add(at, self._unless_unfit(lambda: self._expr(found, at)))
            self._depth -= 1
        return rule(self._named[id(schema)][1])

    def _unless_unfit(self, make: Callable[[], Expr]) -> Expr:
        try:
            return make()
        except NothingFits as error:
            self._unfit.append(error)
            return NOTHING

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
        kinds = [partial(self._typed, kind, schema, at) for kind in types_of(schema, at)]
        return Alternation(tuple(map(self._unless_unfit, kinds)))

    def _combined(self, schema: Schema, at: str) -> Expr:
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = entries_of(schema.get("allOf", []), f"{at}/allOf", empty="$ref" in schema)
        if not constrains(rest):
            if "$ref" in schema and not parts:
                return self.of(*self.resolved(schema["$ref"], at))
            if "$ref" not in schema and len(parts) == 1:
                return self.of(parts[0], f"{at}/allOf/0")
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
            parts.append(self._flat(*self.resolved(own.pop("$ref"), at)))
        for index, part in enumerate(entries_of(own.pop("allOf", []), f"{at}/allOf", empty=True)):
            parts.append(self._flat(part, f"{at}/allOf/{index}"))
        for part in parts:
            own = self._merger.merged(own, part, at)
            self._count(weight(own))
        return own

    def resolved(self, reference: str, at: str) -> tuple[object, str]:
        """What a reference inside the document points to, and the place."""
        if reference != "#" and not reference.startswith("#/"):
            raise schema_error(at, f"the reference {reference!r} leads out of the schema; only '#/...' is supported")
        target: object = self.document
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
            if key == "oneOf":
                whole = self._alone(whole, schema[key], index, at)
            options.append(self.of(whole, f"{at}/{key}/{index}"))
        return Alternation(tuple(options))

    def _alone(self, branch: object, branches: Sequence[object], index: int, at: str) -> object:
        """A branch of `oneOf` without the values that fit another one, where it lists its values."""
        listed = self._flat(branch, f"{at}/oneOf/{index}")
        if not {"const", "enum"} & listed.keys() or {"anyOf", "oneOf"} & listed.keys():
            return branch
        others = [(other, f"{at}/oneOf/{place}") for place, other in enumerate(branches) if place != index]
        values = [listed["const"]] if "const" in listed else listed["enum"]
        alone = [value for value in values if not any(self._fitting.fits(value, *other) for other in others)]
        return branch if len(alone) == len(values) else {"allOf": [branch, {"enum": alone}]}

    def _given(self, schema: Schema, at: str) -> Expr:
        """The values of `const` or `enum` that keep to what stands beside it."""
        key = "const" if "const" in schema else "enum"
        values = [schema["const"]] if key == "const" else schema["enum"]
        if key == "const" and "enum" in schema:
            values = common(values, schema["enum"])
        values = self._fitting.distinct(values)
        beside = {name: value for name, value in schema.items() if name not in ("const", "enum")}
        if constrains(beside):
            values = [value for value in values if self._fitting.fits(value, beside, at)]
        if not values:
            raise NothingFits(at, f"no value of '{key}' fits what stands beside it")
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
                return Alternation((Terminal(b"true"), Terminal(b"false")))
            case "null":
                return Terminal(b"null")
        return VALUE

    def _object(self, schema: Schema, at: str) -> Expr:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        undeclared = schema.get("additionalProperties", True)
        declared = {**properties, **{name: undeclared for name in required if name not in properties}}
        if forbidden := next((name for name in required if declared[name] is False), None):
            raise NothingFits(at, f"the property {forbidden!r} is required, and may not be there")
        more = schema.get("additionalProperties", not properties)
        least, most = count_of(schema, "minProperties", at) or 0, count_of(schema, "maxProperties", at)
        entries = [
            (member(literal(name), self.of(part, f"{at}/properties/{_step(name)}")), name in required)
            for name, part in declared.items()
        ]
        if more is False:
            if least > len(required) or (most is not None and most < len(declared)):
                raise schema_error(at, "property counts can only be enforced where all properties are free")
            return enclosed(b"{", self.entries(entries, EMPTY, EMPTY), b"}")
        extra = member(self._key_other_than(declared), self.of(more, f"{at}/additionalProperties"))
        if declared and (least or most is not None):
            raise schema_error(at, "property counts can only be enforced where all properties are free")
        if not declared:
            return enclosed(b"{", listed(extra, least, most), b"}")
        follow = Repeat(separated(extra), 0, None)
        return enclosed(b"{", self.entries(entries, maybe(filled(chain(extra, follow))), follow), b"}")

    def _key_other_than(self, names: Mapping[str, object]) -> Expr:
        if not names:
            return STRING
        owner = self.owner("keys")
        for name, expr in key_other_than(owner, names):
            self.add(name, expr)
        return rule(owner)

    def owner(self, what: str) -> str:
        """A name, for rules that belong to one schema, that no way to a schema is called."""
        self._owners += 1
        return f"{what} {self._owners}"

    def entries(self, entries: Sequence[tuple[Expr, bool]], alone: Expr, follow: Expr) -> Expr:
        """Entries in their order, of which some may be left out; `alone` or `follow` stands for all further ones.

        Each has two rules: what comes from here on when nothing was written yet, and when something was.
        """
        first: Expr = alone
        later: Expr = chain(follow, SPACE)
        owner = self.owner("entries")
        for index, (entry, needed) in reversed(list(enumerate(entries))):
            begun = chain(entry, later)
            self.add(f"{owner} first {index}", begun if needed else Alternation((begun, first)))
            joined = chain(separated(entry), later)
            self.add(f"{owner} later {index}", joined if needed else Alternation((joined, later)))
            first, later = rule(f"{owner} first {index}"), rule(f"{owner} later {index}")
        return first

    def _array(self, schema: Schema, at: str) -> Expr:
        places, items = places_of(schema, at)
        heads = [self.of(part, f"{at}/prefixItems/{index}") for index, part in enumerate(places)]
        least, most = count_of(schema, "minItems", at) or 0, count_of(schema, "maxItems", at)
        if items is False:
            most = len(heads) if most is None else min(most, len(heads))
        if most is not None and least > most:
            raise NothingFits(at, f"no array has at least {least} and at most {most} items")
        item = self.of(items, f"{at}/items")
        if not heads:
            return enclosed(b"[", listed(item, least, most), b"]")
        heads = heads[:most]
        rest_least, rest_most = max(0, least - len(heads)), None if most is None else most - len(heads)
        owner = self.owner("items")
        tail: Expr = chain(Repeat(separated(item), rest_least, rest_most), SPACE)
        for index, head in reversed(list(enumerate(heads))):
            joined = chain(separated(head) if index else head, tail)
            stop = SPACE if index else EMPTY
            self.add(f"{owner} from {index}", joined if index < least else Alternation((joined, stop)))
            tail = rule(f"{owner} from {index}")
        return enclosed(b"[", tail, b"]")


def listed(item: Expr, least: int, most: int | None) -> Expr:
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
