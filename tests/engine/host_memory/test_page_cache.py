"""Page cache: measured and given back, on a real file, also while this process has it mapped."""

import mmap
import os
from pathlib import Path

import psutil
import pytest

from twd.engine.host_memory.page_cache import CAN_DROP, cached_bytes, drop, footprint, read_ahead, release_mapped

SIZE = 24 << 20


def on_a_disk(path: Path) -> bool:
    """A file system in memory has no copy elsewhere to fall back on."""
    mounts = sorted(psutil.disk_partitions(all=True), key=lambda part: len(part.mountpoint))
    kinds = [part.fstype for part in mounts if path.is_relative_to(part.mountpoint)]
    return not kinds or kinds[-1] not in ("tmpfs", "ramfs")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    if not (CAN_DROP and on_a_disk(tmp_path)):
        pytest.skip("no file system here whose cache can be given back")
    path = tmp_path / "weights.gguf"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_a_file_is_forgotten_and_read_again(weights: Path) -> None:
    drop([weights])
    assert cached_bytes([weights]) == 0
    shares: list[float] = []
    read_ahead([weights], shares.append)
    assert cached_bytes([weights]) == SIZE
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_what_this_process_has_mapped_is_given_back_too(weights: Path) -> None:
    content = weights.read_bytes()
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == content
        held = footprint([weights])
        drop([weights])
        assert cached_bytes([weights]) > SIZE // 2  # mapped pages do not go by themselves
        assert release_mapped([weights]) >= SIZE
        drop([weights])
        left = footprint([weights])
        assert left.cached == 0
        assert held.rss - left.rss > SIZE // 2
        assert mapped[:] == content  # it comes back when it is read


def test_a_part_of_a_page_counts_as_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x" * 100)
    assert cached_bytes([path]) in (0, 100)
    assert cached_bytes([]) == 0
