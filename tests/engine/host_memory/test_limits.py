"""How much memory a container leaves."""

from pathlib import Path

import psutil
import pytest

from twd.engine.host_memory import limits as memory
from twd.engine.host_memory.cgroups import MemoryGroup, groups_of

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "used", "stat", "lists"),
    [
        ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", ("total_inactive_file", "total_active_file")),
    ],
)
def test_files_that_were_read_are_no_memory_that_is_taken(
    limit: str, used: str, stat: str, lists: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = MemoryGroup(tmp_path / limit, tmp_path / used, lists)
    monkeypatch.setattr(memory, "memory_groups", lambda: [group])
    whole = int(psutil.virtual_memory().total)
    assert memory.total_bytes() == whole
    (tmp_path / limit).write_text(f"{64 * MIB}\n")
    (tmp_path / used).write_text(f"{60 * MIB}\n")
    assert memory.available_bytes() == 4 * MIB
    (tmp_path / stat).write_text(f"anon {9 * MIB}\n{lists[0]} {30 * MIB}\n{lists[1]} {20 * MIB}\nodd\n")
    assert memory.available_bytes() == 54 * MIB
    assert memory.total_bytes() == 64 * MIB
    (tmp_path / limit).write_text("max\n")
    assert memory.total_bytes() == whole
    assert memory.available_bytes() > 64 * MIB


def test_the_limit_of_the_own_group_counts_and_those_above_it() -> None:
    root = Path("/sys/fs/cgroup")
    found = groups_of("12:cpuset:/\n4:cpu,memory:/docker/one\n0::/\n", root)
    limits = [str(group.limit) for group in found]
    assert limits == [
        "/sys/fs/cgroup/memory/docker/one/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
    ]
    assert [str(group.limit) for group in groups_of("0::/user.slice/../a\n", root)] == [
        "/sys/fs/cgroup/user.slice/a/memory.max",
        "/sys/fs/cgroup/user.slice/memory.max",
        "/sys/fs/cgroup/memory.max",
    ]
    assert len(groups_of("", root)) == 2, "without Linux's file, the root's groups of both versions"
