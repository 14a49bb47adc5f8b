"""How much memory a container leaves."""

from pathlib import Path

import psutil
import pytest

from twd.engine.host_memory import limits as memory

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
    monkeypatch.setattr(memory, "_CGROUPS", ((tmp_path / limit, tmp_path / used, lists),))
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
