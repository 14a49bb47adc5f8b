"""Any JSON of a known shape: values of just any kind are nearly all refused before they are read."""

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect as shape

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
INT64, UINT64 = 2**63, 2**64


def shaped(as_type: type) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that are read as this struct, and now and then some whose fields hold anything."""
    info = shape.type_info(as_type)
    assert isinstance(info, shape.StructType)
    names = [field.encode_name for field in info.fields]
    return st.one_of(_struct(info), st.dictionaries(st.sampled_from(names) | st.text(max_size=6), JSON, max_size=6))


def _struct(info: shape.StructType) -> st.SearchStrategy[dict[str, Any]]:
    values = {field.encode_name: of_type(field.type) for field in info.fields}
    needed = {field.encode_name: values.pop(field.encode_name) for field in info.fields if field.required}
    tag = {info.tag_field: st.just(info.tag)} if info.tag_field is not None else {}
    return st.fixed_dictionaries({**tag, **needed}, optional=values)


def of_type(info: shape.Type) -> st.SearchStrategy[Any]:
    """Any JSON that is read as this type."""
    match info:
        case shape.StructType():
            return _struct(info)
        case shape.UnionType(types=types):
            return st.one_of([of_type(one) for one in types])
        case shape.ListType(item_type=item, min_length=least):
            return st.lists(of_type(item), min_size=least or 0, max_size=(least or 0) + 3)
        case shape.TupleType(item_types=items):
            return st.tuples(*map(of_type, items))
        case shape.DictType(key_type=key, value_type=value):
            return st.dictionaries(of_type(key), of_type(value), max_size=3)
        case shape.LiteralType(values=values):
            return st.sampled_from(values)
        case shape.AnyType():
            return JSON
    return _scalar(info)


def _scalar(info: shape.Type) -> st.SearchStrategy[Any]:
    match info:
        case shape.IntType(ge=least, lt=end, le=most):
            low = -INT64 if least is None else least
            high = most if most is not None else UINT64 - 1 if end is None else end - 1
            return st.one_of(st.integers(low, high), st.sampled_from((low, high)))
        case shape.FloatType(gt=above, ge=least, le=most):
            lowest = least if above is None else above
            return st.floats(lowest, most, exclude_min=above is not None, allow_nan=False, allow_infinity=False)
        case shape.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=True)
        case shape.StrType(min_length=least, max_length=longest):
            return st.text(min_size=least or 0, max_size=min(8, longest or 8))
        case shape.BoolType():
            return st.booleans()
        case shape.NoneType():
            return st.none()
    raise AssertionError(f"nothing is known of {info}")
