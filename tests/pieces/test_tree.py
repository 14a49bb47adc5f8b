"""The tree against a plain reading of BEP 52: all leaves of the padded file, folded in pairs up to one."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.pieces.tree import BLOCK, UNIT, root_of, unit_hash, units_of


def plain_root(data: bytes) -> bytes:
    row = [sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    while len(row) & (len(row) - 1):
        row.append(bytes(32))
    while len(row) > 1:
        row = [sha256(row[at] + row[at + 1]).digest() for at in range(0, len(row), 2)]
    return row[0]


def our_root(data: bytes) -> bytes:
    return root_of([unit_hash(data[at : at + UNIT], len(data)) for at in range(0, len(data), UNIT)])


AWKWARD = (
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK,
    UNIT - 1,
    UNIT,
    UNIT + 1,
    2 * UNIT,
    3 * UNIT - 5,
    5 * UNIT + BLOCK,
)


@pytest.mark.parametrize("size", AWKWARD)
def test_the_root_of_awkward_sizes(size: int) -> None:
    data = bytes(index * 7 % 251 for index in range(256)) * (size // 256 + 1)
    assert our_root(data[:size]) == plain_root(data[:size])


@given(st.integers(1, 4 * UNIT), st.binary(min_size=1, max_size=64))
def test_the_root_of_any_size(size: int, pattern: bytes) -> None:
    data = (pattern * (size // len(pattern) + 1))[:size]
    assert our_root(data) == plain_root(data)


def test_a_file_has_as_many_units_as_it_needs() -> None:
    assert [units_of(size) for size in (1, UNIT, UNIT + 1)] == [1, 1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_libtorrent_finds_the_same_roots(tmp_path: object) -> None:
    libtorrent = pytest.importorskip("libtorrent")
    from pathlib import Path

    for size in AWKWARD:
        file = Path(str(tmp_path)) / f"{size}.bin"
        data = (b"awkward" * (size // 7 + 1))[:size]
        file.write_bytes(data)
        storage = libtorrent.file_storage()
        libtorrent.add_files(storage, str(file))
        made = libtorrent.create_torrent(storage, UNIT, libtorrent.create_torrent.v2_only)
        libtorrent.set_piece_hashes(made, str(file.parent))
        tree = made.generate()[b"info"][b"file tree"]
        assert tree[file.name.encode()][b""][b"pieces root"] == our_root(data), size
