"""`twd upgrade --all` over real ssh servers: three machines, one after another, while eight answers are written."""

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
pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.thorough]

WRITERS = 8
SETTLE = ("--settle", "2")
BROKEN = "\nraise RuntimeError('this version is broken')\n"


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


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages_here(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def three(packages: Path, tmp_path_factory: pytest.TempPathFactory, f16_path: Path, q4_path: Path) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("three")
    with ssh_world(folder / "there", "beta", "gamma") as world:
        world.start()
        installed = Three(folder, packages, f16_path, q4_path, world)
        try:
            installed.program("up", "-d", "--json")
            to = ("beta", "gamma", "--config", "lend.yaml", "--host", "127.0.0.1")
            deployed = installed.program("deploy", "--json", *to)
            assert all(one["ok"] for one in deployed), deployed
            yield installed
            installed.program("down", "--json")
        finally:
            for server in world.servers.values():
                twd_there(server, "down")
            installed.clean_up()


class Writers:
    """Clients that ask the same again and again; each answer is kept whole."""

    def __init__(self, port: int, tries: int) -> None:
        """`tries`: how often a client asks again where no answer began, as OpenAI's own do twice by default."""
        self.texts: list[str] = []
        self.faults: list[Exception] = []
        self._port, self._tries = port, tries
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._write) for _ in range(WRITERS)]

    def _write(self) -> None:
        url = f"http://127.0.0.1:{self._port}/v1"
        client = OpenAI(base_url=url, api_key="none", timeout=120, max_retries=self._tries)
        try:
            while not self._ended.is_set():
                self.texts.append("".join(stream(client)))
        except (OpenAIError, AssertionError) as fault:
            self.faults.append(fault)

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        self.until_more()
        return self

    def until_more(self) -> None:
        """Wait until each has written one more text."""
        wanted = len(self.texts) + WRITERS
        wait_until(lambda: len(self.texts) > wanted or self.faults, "texts", 120)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(120)


def folder_of(server: SshServer) -> VersionsFolder:
    return VersionsFolder(server.home / ".local" / "share" / "twd")


def others_of(three: Three) -> list[str]:
    return [name for name in three.versions() if name != "first"]


def used(three: Three) -> set[str]:
    """The versions that run on any machine."""
    return {version for one in three.versions().values() for version in one.values()}


def test_a_version_that_does_not_start_goes_back_and_the_next_machine_keeps_its_own(
    three: Three, packages: Path
) -> None:
    broken = renumbered(packages, "0.1.5", {"twd/agent/service.py": BROKEN})
    with Writers(three.port, 0) as writers:
        reports = three.program("upgrade", *others_of(three), "--from", str(broken), "--json", *SETTLE)
        writers.until_more()
    assert writers.faults == []
    assert len(set(writers.texts)) == 1
    first, second = reports
    assert first["error"]
    assert (second["error"], second["changed"]) == ("", False)
    assert used(three) == {twd.__version__}
    for server in three.world.servers.values():
        assert [one for one in folder_of(server).listed() if one.startswith("0.1.5")] == []


def test_three_machines_go_to_a_new_version_and_no_request_fails(three: Three, packages: Path) -> None:
    newer = str(renumbered(packages, "0.2.0"))
    with Writers(three.port, 0) as writers:
        reports = three.program("upgrade", *others_of(three), "--from", newer, "--json", *SETTLE)
        assert [one["error"] for one in reports] == ["", ""], reports
        writers.until_more()
    assert writers.faults == [], "two versions on one bus"
    with Writers(three.port, 2) as last:  # an idle connection may end in the moment in which it is used
        reports = three.program("upgrade", "--all", "--from", newer, "--json", *SETTLE)
        assert [(one["error"], one["changed"]) for one in reports] == [("", False), ("", False), ("", True)]
        assert reports[-1]["node"] == "first"
        last.until_more()
    assert last.faults == []
    assert len({*writers.texts, *last.texts}) == 1, "all of them the same"
    assert used(three) == {"0.2.0"}
    assert all(folder_of(server).before().startswith(twd.__version__) for server in three.world.servers.values())


def test_an_older_version_is_refused_before_anything_changes(three: Three, packages: Path) -> None:
    there = three.versions()
    older = renumbered(packages, "0.0.9")
    reports = three.program("upgrade", *others_of(three), "--from", str(older), "--json")
    assert all("newer than 0.0.9" in one["error"] for one in reports)
    assert all([step["name"] for step in one["steps"]] == ["look"] for one in reports)
    assert three.versions() == there
