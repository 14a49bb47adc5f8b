"""The fields of a model's file, for copies of it in another shape.

They are read with our own reader, and once: the one of `gguf` takes seconds for a vocabulary.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf

from twd.gguf_tools.header import ArrayField, GgufHeader, read_header


@dataclass(frozen=True, slots=True)
class CopiedField:
    """One field, as it is written again."""

    name: str
    value: Any
    kind: gguf.GGUFValueType
    inner: gguf.GGUFValueType | None = None
    """The type of an array's elements."""

    @property
    def length(self) -> int:
        """How many elements it has."""
        return len(self.value) if self.inner is not None else 1

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Give it to another file."""
        writer.add_key_value(self.name, self.value, self.kind, self.inner)


def fields_of(path: Path) -> tuple[CopiedField, ...]:
    """All fields of a file."""
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, _changed_ns: int) -> tuple[CopiedField, ...]:
    header = read_header(path)
    with path.open("rb") as file:
        data = file.read(header.data_offset)
    return tuple(_field(header, name, data) for name in header.metadata)


def _field(header: GgufHeader, name: str, data: bytes) -> CopiedField:
    value = header.metadata[name]
    if isinstance(value, ArrayField):
        inner = gguf.GGUFValueType(value.kind.value)
        return CopiedField(name, header.array(name), gguf.GGUFValueType.ARRAY, inner)
    behind_key = header.spans[name][0] + 8 + len(name.encode())
    kind = gguf.GGUFValueType(int.from_bytes(data[behind_key : behind_key + 4], "little"))
    return CopiedField(name, value, kind)
