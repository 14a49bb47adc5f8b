"""The values that a field of a request may have, for errors that name them."""

import re
from collections.abc import Iterator

import msgspec
from msgspec import inspect as shape

_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def choices(model: type[msgspec.Struct], path: str) -> list[str]:
    """Return the values that the field at `path` may have; none where it may have any."""
    types: list[shape.Type] = [shape.type_info(model)]
    for step in _STEP.findall(path):
        types = [inner for one in types for inner in _inside(one, step)]
    return list(dict.fromkeys(value for one in types for value in _values(one)))


def _inside(type_: shape.Type, step: str) -> Iterator[shape.Type]:
    """The types at one step of a path: a field, or an entry of a list or an object."""
    match type_:
        case shape.Metadata():
            yield from _inside(type_.type, step)
        case shape.UnionType():
            for one in type_.types:
                yield from _inside(one, step)
        case shape.ListType() | shape.VarTupleType() if step.startswith("["):
            yield type_.item_type
        case shape.DictType() if step.startswith("["):
            yield type_.value_type
        case shape.StructType():
            yield from (field.type for field in type_.fields if field.encode_name == step)
            if step == type_.tag_field:
                yield shape.LiteralType((type_.tag,))


def _values(type_: shape.Type) -> Iterator[str]:
    match type_:
        case shape.Metadata():
            yield from _values(type_.type)
        case shape.UnionType():
            for one in type_.types:
                yield from _values(one)
        case shape.LiteralType():
            yield from map(str, type_.values)
        case shape.EnumType():
            yield from (str(one.value) for one in type_.cls)
