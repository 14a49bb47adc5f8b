"""How a machine is told from others."""

from pathlib import Path

import pytest

from twd.agent import detect


def test_processes_of_a_machine_without_network_card_find_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("5f0c-77aa\n")
    drawn = iter((0x0100_0000_0001, 0x0300_0000_0002, 0x02_42AC_1100, 0x02_42AC_1100))
    monkeypatch.setattr(detect.uuid, "getnode", lambda: next(drawn))
    assert detect.machine_name(boot) == detect.machine_name(boot)
    assert detect.machine_name(boot).endswith("-000242ac1100")
    assert detect.machine_name(tmp_path / "none").endswith("-000242ac1100")
