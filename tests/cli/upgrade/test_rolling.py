"""`twd upgrade --all` over real ssh servers: three machines, one after another, while answers are written."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, OpenAIError

import twd
from tests.cli.deploy.ssh_servers import SshServer, SshWorld, ssh_world
from tests.cli.deploy.test_deploy import twd_there
from tests.cli.running import Installed
from tests.cli.upgrade.packages import installed_from, packages_here, renumbered
from tests.e2e.streaming import stream
from tests.model_fixtures import f16_path, model_cache, q4_path
from tests.waiting import wait_until
from twd.kit.exit_codes import ExitCode
from twd.setup.versions.folder import VersionsFolder

__all__ = ["f16_path", "model_cache", "q4_path"]
pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow]

WRITERS = 2
SETTLE = ("--settle", "2")
BROKEN = {"twd/drafter/service.py": "\nraise RuntimeError('this version is broken')\n"}


class Three(Installed):
    """The machine that asks, with an installation of its own, and two that ssh reaches."""

    def __init__(self, folder: Path, packages: Path, target: Path, drafts: Path, world: SshWorld) -> None:
        home = folder / "first" / "home"
        home.parent.mkdir(parents=True)
        super().__init__(home)
        self.world = world
        self.folder = installed_from(packages, folder / "first" / "twd")
        self.env |= {
            "TWD_BUS_HOST": "0.0.0.0",
            "TWD_NODE": "first",
            "PATH": f"{world.bin}:{os.environ['PATH']}",
            "TWD_CONFIG": str(home.parent / "own.yaml"),
        }
        self.env.pop("PYTHONPATH", None)
        own = f"mode: combined\npool: {{host: 0.0.0.0, split: even}}\nmodels:\n  small: {{path: {target}}}\n"
        own += f"drafters:\n  - {{path: {drafts}}}\n"
        (home.parent / "own.yaml").write_text(own)
        lend = f"agent: {{port: 0, model_dirs: [{drafts.parent}]}}\npool: {{host: 0.0.0.0}}\nswarm: {{port: 0}}\n"
        (home.parent / "lend.yaml").write_text(lend)

    def program(self, *arguments: str) -> Any:
        """Run a command of the version in use; returns what it printed as JSON."""
        command = [str(self.folder.program()), *arguments]
        done = subprocess.run(
            command, env=self.env, cwd=self.home.parent, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode in (0, ExitCode.CANNOT_START), done.stderr
        self.said = done.stderr
        return json.loads(done.stdout or "null")

    def versions(self) -> dict[str, dict[str, str]]:
        """Each service of each machine with its version."""
        found: dict[str, dict[str, str]] = {}
        for one in self.status()["services"]:
            found.setdefault(one["node"], {})[one["service"]] = one["version"]
        return found


@pytest.fixture
def three(tmp_path: Path, f16_path: Path, q4_path: Path) -> Iterator[Three]:
    with ssh_world(tmp_path / "there", "beta", "gamma") as world:
        world.start()
        installed = Three(tmp_path, packages_here(tmp_path / "packages"), f16_path, q4_path, world)
        try:
            installed.program("up", "-d", "--json")
            deployed = installed.program(
                "deploy", "beta", "gamma", "--json", "--config", "lend.yaml", "--host", "127.0.0.1"
            )
            assert all(one["ok"] for one in deployed), deployed
            yield installed
            installed.program("down", "--json")
        finally:
            for server in world.servers.values():
                twd_there(server, "down")
            installed.clean_up()


def folder_of(server: SshServer) -> VersionsFolder:
    return VersionsFolder(server.home / ".local" / "share" / "twd")


def test_three_machines_go_to_a_new_version_and_no_request_fails(three: Three, tmp_path: Path) -> None:
    newer = renumbered(tmp_path / "packages" / twd.__version__, "0.2.0")
    texts: list[str] = []
    faults: list[Exception] = []
    ended = threading.Event()

    def write() -> None:
        client = OpenAI(base_url=f"http://127.0.0.1:{three.port}/v1", api_key="none", timeout=120, max_retries=12)
        try:
            while not ended.is_set():
                texts.append("".join(stream(client)))
        except (OpenAIError, AssertionError) as fault:
            faults.append(fault)

    writers = [threading.Thread(target=write) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: texts or faults, "a text before anything changes", 120)
        reports = three.program("upgrade", "--all", "--from", str(newer), "--json", *SETTLE)
        assert [one["node"] for one in reports][-1] == "first"
        assert [one["error"] for one in reports] == ["", "", ""], reports
        before = len(texts)
        wait_until(lambda: len(texts) > before + WRITERS or faults, "texts afterwards", 120)
    finally:
        ended.set()
        for writer in writers:
            writer.join(120)
    assert faults == []
    assert len(set(texts)) == 1, "all of them the same"
    assert {version for one in three.versions().values() for version in one.values()} == {"0.2.0"}
    again = three.program("upgrade", "--all", "--from", str(newer), "--json", *SETTLE)
    assert [(one["error"], one["changed"]) for one in again] == [("", False)] * 3
    for server in three.world.servers.values():
        assert folder_of(server).before().startswith("0.1.0-")
