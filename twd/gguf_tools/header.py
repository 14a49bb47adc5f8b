"""Reads the header of one GGUF file: metadata and tensor list. Weights are not read; arrays only on request."""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from twd.gguf_tools.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from twd.wire.failures import FailureCode, TwdError

Scalar = int | float | bool | str
FORMATS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}
_VERSIONS = (2, 3)
_FEWEST_BYTES_OF_A_KEY = 13
_FEWEST_BYTES_OF_A_TENSOR = 24
_DIMENSIONS_MAX = 8
_DEPTH_MAX = 4
FIELDS_MAX = 16_384
TENSORS_MAX = 131_072
ITEMS_MAX = 4_000_000
"""The most fields, strings, nested arrays and tensors of one header: enough for four large vocabularies."""
NAME_BYTES_MAX = 65_535
TEXT_BYTES_MAX = 64 * 1024**2
"""The most bytes of all strings that are kept from one header."""
NUMBERS_MAX = 65_536
"""The most elements of an array that is read as one number, for example one value for each layer."""


class BrokenGguf(TwdError):
    """The file cannot be read, is not a GGUF file, is cut short, or has a corrupt header."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(FailureCode.MODEL_LOAD, f"{path}: {what}")


class CutShort(BrokenGguf):
    """The header goes on behind the end of the file."""


@dataclass(frozen=True, slots=True)
class ArrayField:
    """The place of an array in the file: `length` elements from byte `offset` on. `GgufHeader.array` reads it."""

    kind: GGUFValueType
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor; `offset` is in bytes from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file: everything before the weights."""

    path: Path
    version: int
    file_bytes: int
    metadata: dict[str, Scalar | ArrayField]
    tensors: list[TensorInfo]
    data_offset: int
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each metadata field, the byte offsets where it begins (with its key) and ends in the file."""

    @property
    def bytes_expected(self) -> int:
        """The least size of the file in bytes, so that it holds every tensor."""
        return self.data_offset + max((t.offset + t.size_bytes for t in self.tensors), default=0)

    def array(self, key: str) -> list[Scalar]:
        """The elements of an array field; empty if there is no such array, or it is an array of arrays."""
        where = self.metadata.get(key)
        if not isinstance(where, ArrayField) or where.kind is GGUFValueType.ARRAY:
            return []
        with _open(self.path) as cursor:
            cursor.require(where.length, ITEMS_MAX, f"elements of {key!r}")
            cursor.at = where.offset
            return [cursor.value(where.kind) for _ in range(where.length)]

    def text(self, key: str, default: str = "") -> str:
        """The value of a string field, or `default`."""
        value = self.metadata.get(key, default)
        return value if isinstance(value, str) else default

    def number(self, key: str, default: int = 0) -> int:
        """The value of an integer field, or `default`; for an array (one value for each layer), the largest element."""
        value = self.metadata.get(key, default)
        if isinstance(value, ArrayField) and value.length > NUMBERS_MAX:
            raise BrokenGguf(self.path, f"corrupt header: {key!r} has {value.length} elements; fetch it again")
        given = self.array(key) if isinstance(value, ArrayField) else [value]
        try:
            return max((int(x) for x in given if not isinstance(x, str)), default=default)
        except (OverflowError, ValueError):  # a float that is infinite or NaN
            raise BrokenGguf(self.path, f"corrupt header: {key!r} is no number; fetch it again") from None


@dataclass(slots=True)
class _Cursor:
    """A reading position in the mapped file. Reading past the end raises BrokenGguf."""

    path: Path
    data: mmap.mmap
    at: int = 0
    end: int = field(init=False)
    items: int = 0
    text_bytes: int = 0

    def __post_init__(self) -> None:
        self.end = len(self.data)

    def need(self, count: int, size: int) -> None:
        if count < 0 or count * size > self.end - self.at:
            raise CutShort(self.path, "the file is cut short or corrupt (its header does not fit); fetch it again")

    def require(self, count: int, most: int, what: str) -> None:
        """Raise BrokenGguf if `count` is above `most`, before the items are read."""
        if count > most:
            raise BrokenGguf(self.path, f"corrupt header: {count} {what}, more than {most}; fetch it again")

    def count(self, items: int, size: int, what: str) -> None:
        """Count items that are read one by one, each at least `size` bytes; raises BrokenGguf if there are too many."""
        self.items += items
        self.require(self.items, ITEMS_MAX, what)
        self.need(items, size)

    def number(self, layout: str) -> int | float | bool:
        size = struct.calcsize(layout)
        self.need(1, size)
        (value,) = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return value  # type: ignore[no-any-return]

    def integer(self, layout: str) -> int:
        return int(self.number(layout))

    def string(self, most: int = TEXT_BYTES_MAX) -> str:
        length = self.integer("<Q")
        self.need(length, 1)
        self.text_bytes += length
        self.require(length, most, "bytes of text")
        self.require(self.text_bytes, TEXT_BYTES_MAX, "bytes of text")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", "replace")

    def kind(self) -> GGUFValueType:
        code = self.integer("<I")
        try:
            return GGUFValueType(code)
        except ValueError:
            raise BrokenGguf(self.path, f"corrupt header: unknown value type {code}; fetch it again") from None

    def value(self, kind: GGUFValueType) -> Scalar:
        return self.string() if kind is GGUFValueType.STRING else self.number(FORMATS[kind])

    def field(self, depth: int = 0) -> Scalar | ArrayField:
        kind = self.kind()
        return self.array(depth) if kind is GGUFValueType.ARRAY else self.value(kind)

    def array(self, depth: int = 0) -> ArrayField:
        kind = self.kind()
        length = self.integer("<Q")
        start = self.at
        if kind is GGUFValueType.STRING:
            self.skip_strings(length)
        elif kind is GGUFValueType.ARRAY:
            self.skip_arrays(length, depth + 1)
        else:
            size = struct.calcsize(FORMATS[kind])
            self.need(length, size)
            self.at += length * size
        return ArrayField(kind, length, start)

    def skip_strings(self, count: int) -> None:
        self.count(count, 8, "strings")
        data, at, end, length_of = self.data, self.at, self.end, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > end:
                break
            at += 8 + length_of(data, at)[0]
        self.at = min(at, end)
        self.need(at - self.at, 1)

    def skip_arrays(self, count: int, depth: int) -> None:
        self.count(count, 12, "arrays")
        if depth > _DEPTH_MAX:
            raise BrokenGguf(self.path, "corrupt header: arrays nested too deep; fetch it again")
        for _ in range(count):
            self.array(depth)

    def tensor(self) -> TensorInfo:
        name = self.string(NAME_BYTES_MAX)
        dimensions = self.integer("<I")
        if dimensions > _DIMENSIONS_MAX:
            raise BrokenGguf(self.path, f"corrupt header: tensor {name!r} has {dimensions} dimensions; fetch it again")
        shape = tuple(self.integer("<Q") for _ in range(dimensions))
        code, offset = self.integer("<I"), self.integer("<Q")
        try:
            kind = GGMLQuantizationType(code)
            block, size = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise BrokenGguf(self.path, f"tensor {name!r} has an unknown type {code}; update twd or the file") from None
        return TensorInfo(name, shape, kind, offset, prod(shape) // block * size)


@contextmanager
def _open(path: Path) -> Iterator[_Cursor]:
    try:
        if path.is_fifo():  # opening a pipe would block until a writer opens it
            raise BrokenGguf(path, "is a pipe; name a .gguf file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield _Cursor(path, data)
    except FileNotFoundError:
        raise BrokenGguf(path, "no such file; check the path of the model") from None
    except IsADirectoryError:
        raise BrokenGguf(path, "is a folder; name the .gguf file in it") from None
    except OSError as error:
        raise BrokenGguf(path, f"cannot be read ({error.strerror})") from None
    except ValueError:
        raise BrokenGguf(path, "the file is empty; fetch it again") from None


def aligned(position: int, alignment: int) -> int:
    """`position`, rounded up to a multiple of `alignment`."""
    return -(-position // alignment) * alignment


def read_header(path: Path) -> GgufHeader:
    """Read the header of one file and check it against the file's size; raises BrokenGguf."""
    with _open(path) as cursor:
        header = _read(cursor)
    if header.file_bytes < header.bytes_expected:
        missing = header.bytes_expected - header.file_bytes
        raise BrokenGguf(
            path, f"the file is cut short: {missing} of {header.bytes_expected} bytes missing; fetch it again"
        )
    return header


def begins_whole(path: Path) -> bool:
    """Return whether a file that holds only the beginning of a model has its whole header; raises BrokenGguf."""
    try:
        with _open(path) as cursor:
            header = _read(cursor)
    except CutShort:
        return False
    return header.file_bytes >= header.data_offset or not header.tensors


def _read(cursor: _Cursor) -> GgufHeader:
    path = cursor.path
    cursor.need(1, 4)
    if cursor.data[:4] != b"GGUF":
        raise BrokenGguf(path, "this is not a GGUF file; convert the model to GGUF first")
    cursor.at = 4
    version = cursor.integer("<I")
    if version not in _VERSIONS:
        raise BrokenGguf(path, f"GGUF version {version} cannot be read here; convert the model again")
    tensor_count, field_count = cursor.integer("<Q"), cursor.integer("<Q")
    cursor.require(field_count, FIELDS_MAX, "fields")
    cursor.count(field_count, _FEWEST_BYTES_OF_A_KEY, "fields")
    metadata: dict[str, Scalar | ArrayField] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(field_count):
        start = cursor.at
        key = cursor.string(NAME_BYTES_MAX)
        metadata[key] = cursor.field()
        spans[key] = start, cursor.at
    cursor.require(tensor_count, TENSORS_MAX, "tensors")
    cursor.count(tensor_count, _FEWEST_BYTES_OF_A_TENSOR, "tensors")
    tensors = [cursor.tensor() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise BrokenGguf(path, "corrupt header: bad alignment; fetch it again")
    data_offset = aligned(cursor.at, alignment)
    return GgufHeader(path, version, cursor.end, metadata, tensors, data_offset, spans)
