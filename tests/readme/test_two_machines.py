"""docs/two-machines.md: its commands, in their order, on two machines."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.readme.machines import two_machines
from tests.readme.printed import README, block_commands
from tests.waiting import wait_until

PAGE = README.parent / "docs" / "two-machines.md"
BY_SSH = [
    "twd deploy --dry-run HOST",
    "twd deploy HOST",
    "twd upgrade --all --from WHEELS --check",
    "twd upgrade --all --from WHEELS",
    "twd upgrade rig attic",
]
"""Run by tests/cli/deploy and tests/cli/upgrade."""
COMMANDS = [
    "TWD_BUS_HOST=0.0.0.0 twd up -d",
    "twd token add > join.txt",
    "twd join --token-file join.txt",
    "TWD_POOL_HOST=0.0.0.0 twd up -d agent",
    "twd node list",
    "twd node remove second-machine",
]


def test_the_page_says_what_is_run_here() -> None:
    assert block_commands(PAGE) == [*COMMANDS[:-1], *BY_SSH, COMMANDS[-1]]


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.slow
def test_a_machine_joins_lends_and_is_removed(tmp_path: Path) -> None:
    up, token, join, lend, listed, remove = COMMANDS
    with two_machines(tmp_path) as (first, second):
        first.run(f"{up} edge metrics agent")
        first.run(token)
        shutil.copy(first.folder / "join.txt", second.folder)
        began = time.monotonic()
        second.run(join)
        second.run(lend)
        took = time.monotonic() - began
        assert "agent, supervisor" in first.run(listed)
        (row,) = json.loads(first.run(f"{listed} --json"))
        assert (row["node"], row["roles"]) == ("second-machine", ["machine"])
        assert "second-machine" in second.run("twd status"), "it sees itself with its own keys"
        first.run(remove)
        log = second.folder / ".twd" / "logs" / "supervisor.log"
        wait_until(lambda: "was removed from the installation" in log.read_text(), "it is told", 30)
        wait_until(lambda: "nothing runs" in second.run("twd down || true"), "all ends there", 60)
        assert "refuses to let us in" in second.run("twd status 2>&1 || true")
        assert "second-machine" not in first.run("twd status")
        print(f"join to lease: {took:.1f} s")
