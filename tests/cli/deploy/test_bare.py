"""`twd deploy` to a machine with nothing on it: no Python, no compiler, no route out, and little room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.deploy.bare_root import BareMachine, bare_machine, bare_root
from tests.cli.deploy.ssh_servers import SshWorld
from tests.cli.deploy.test_deploy import deploy, first, states
from tests.cli.running import Installed
from tests.model_fixtures import model_cache
from twd.bus.join import PREFIX

__all__ = ["first", "model_cache"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.thorough]

BASE = "/root/.local/share/twd"
WHAT_IS_THERE = "find /root -xdev | grep -v '^/root/.ssh' | sort"


@pytest.fixture
def bare(model_cache: Path, tmp_path: Path) -> Iterator[BareMachine]:
    (tmp_path / "there").mkdir()
    with bare_machine("bare", tmp_path / "there", bare_root(model_cache)) as machine:
        yield machine


def world_of(machine: BareMachine) -> SshWorld:
    world = SshWorld(machine.folder.parent, [machine])
    machine.start(world.authorized)
    return world


def test_from_bare_to_a_lease_with_one_command_and_again(first: Installed, bare: BareMachine) -> None:
    world = world_of(bare)
    assert bare.run("command -v python3 c++ g++ gcc clang").stdout == ""
    assert "eth0\t00000000" not in bare.run("cat /proc/net/route").stdout, "no route out"
    (fresh,) = deploy(first, world, "bare", at=bare.here)
    assert fresh["ok"], fresh
    assert "cores" in fresh["lends"]
    assert states(fresh)["python"] == "done"
    engine = bare.run(f"{BASE}/current/bin/python3 -P -c 'import llama_cpp; print(llama_cpp.__version__)'")
    assert engine.returncode == 0, engine.stderr
    before = bare.run(WHAT_IS_THERE).stdout
    (again,) = deploy(first, world, "bare", at=bare.here)
    assert (again["ok"], again["changed"]) == (True, False)
    assert "python" not in states(again)
    assert not _strange(before, bare.run(WHAT_IS_THERE).stdout)
    assert PREFIX not in bare.run("cat /root/.twd/logs/* 2>/dev/null").stdout + world.said.read_text()


def _strange(before: str, after: str) -> list[str]:
    """Return what was added or removed, but for what runs there writes itself."""
    changed = set(before.splitlines()) ^ set(after.splitlines())
    return sorted(path for path in changed if "__pycache__" not in path and "/.twd/" not in path)
