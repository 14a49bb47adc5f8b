"""The service under a real systemd: ready when it works, told in words, and started anew when it hangs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.deploy.ssh_servers import SshWorld
from tests.cli.deploy.test_deploy import deploy, first
from tests.cli.running import Installed
from tests.cli.service.systemd_machine import SystemdMachine, systemd_machine
from tests.model_fixtures import model_cache
from tests.waiting import wait_until

__all__ = ["first", "model_cache"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.thorough]

UNIT = "twd-agent.service"
WATCHDOG_S = 6
SOONER = f"""
mkdir -p /etc/systemd/system/{UNIT}.d
printf '[Service]\\nWatchdogSec={WATCHDOG_S}\\nRestartSec=0\\n' > /etc/systemd/system/{UNIT}.d/test.conf
systemctl daemon-reload
systemctl restart {UNIT}
"""


@pytest.fixture
def rig(model_cache: Path, tmp_path: Path) -> Iterator[SystemdMachine]:
    (tmp_path / "there").mkdir()
    with systemd_machine("rig", tmp_path / "there", model_cache) as machine:
        yield machine


def test_systemd_starts_watches_and_ends_the_agent(first: Installed, rig: SystemdMachine) -> None:
    world = SshWorld(rig.folder.parent, [rig])
    rig.start(world.authorized)
    wait_until(
        lambda: rig.run("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"), "it is up"
    )
    (fresh,) = deploy(first, world, "rig", "--system", at=rig.here)
    assert fresh["ok"], fresh
    assert {step["name"]: step["note"] for step in fresh["steps"]}["start"] == "as a service of the machine"
    assert rig.shown(UNIT, "ActiveState") == "active"
    assert rig.shown(UNIT, "StatusText")
    assert rig.run(f"systemctl is-enabled {UNIT}").stdout.strip() == "enabled"

    done = rig.run(SOONER)
    assert done.returncode == 0, done.stderr
    stopped = rig.shown(UNIT, "MainPID")
    assert int(stopped) > 1
    rig.run(f"kill -STOP {stopped}")
    wait_until(lambda: rig.shown(UNIT, "NRestarts") == "1", "the watchdog fires", 10 * WATCHDOG_S)
    wait_until(lambda: rig.shown(UNIT, "ActiveState") == "active", "it works again", 60)
    assert rig.shown(UNIT, "MainPID") != stopped
    assert f"Watchdog timeout (limit {WATCHDOG_S}s)" in rig.run(f"journalctl --unit={UNIT} --no-pager").stdout
    wait_until(lambda: "agent" in services_of(first, fresh["node"]), "it is back on the bus", 30)

    assert rig.run(f"systemctl stop {UNIT}").returncode == 0
    assert (rig.shown(UNIT, "ActiveState"), rig.shown(UNIT, "Result")) == ("inactive", "success")


def services_of(first: Installed, node: str) -> list[str]:
    """What runs on a machine, as the first one sees it."""
    status = json.loads(first.twd("status", "--json").stdout)
    return [one["service"] for one in status["services"] if one["node"] == node]
