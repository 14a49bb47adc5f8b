"""The quick way to hash gives what the plain way gives."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.engine.rpc.fnv import BASIS, PRIME, file_fnv1a, fnv1a


def byte_by_byte(data: bytes) -> int:
    found = BASIS
    for octet in data:
        found = (found ^ octet) * PRIME % 2**64
    return found


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_it_is_fnv1a_in_one_piece_or_two(first: bytes, second: bytes) -> None:
    assert fnv1a(second, fnv1a(first)) == fnv1a(first + second) == byte_by_byte(first + second)


def test_known_values() -> None:
    assert (fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")) == (BASIS, 0xAF63DC4C8601EC8C, 0x85944171F73967E8)


@pytest.mark.parametrize("length", [63, 64, 65, 65535, 65536, 65537, 200001])
def test_blocks_meet_without_a_seam(length: int, tmp_path: Path) -> None:
    data = bytes(at * at % 251 for at in range(length))
    file = tmp_path / "data"
    file.write_bytes(data)
    assert file_fnv1a(file) == byte_by_byte(data)
