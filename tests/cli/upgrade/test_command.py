"""`twd upgrade` for other machines, where it can do nothing: it says why, and changes nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import Installed, running
from tests.setup.versions.test_folder import add
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.setup.versions.folder import VersionsFolder

NO_SUCH_HOST = "#!/bin/sh\necho 'ssh: Could not resolve hostname rig: Name or service not known' >&2\nexit 255\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--all"], ExitCode.NOTHING_RUNS, "`twd up` starts it"),
        (["rig"], ExitCode.NOTHING_RUNS, "`twd up` starts it"),
        (["--json"], ExitCode.USAGE, "name them, or --all"),
        ([], ExitCode.CANNOT_START, "no installation with versions"),
        (["--prune"], ExitCode.CANNOT_START, "no installation with versions"),
        (["--prune", "--all"], ExitCode.USAGE, "for this machine"),
        (["--keep", "1"], ExitCode.USAGE, "--keep"),
        (["--take", "9.9.9"], ExitCode.CANNOT_START, "no installation with versions"),
    ],
)
def test_where_nothing_can_be_renewed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: ExitCode,
    words: str,
) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path))
    assert run(["upgrade", *arguments]) == code
    assert words in capsys.readouterr().err


def test_old_versions_are_removed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = VersionsFolder(tmp_path / "twd")
    for version in ("0.1.0", "0.2.0", "0.3.0"):
        add(folder, version)
        folder.take(version)
    monkeypatch.setenv("TWD_HOME", str(tmp_path))
    monkeypatch.setattr("twd.cli.upgrade.command.installation", lambda: folder)
    assert run(["upgrade", "--prune", "--keep", "3"]) == 0
    assert capsys.readouterr().out == "there is nothing to remove: 0.1.0, 0.2.0, 0.3.0\n"
    assert run(["upgrade", "--prune"]) == 0
    assert capsys.readouterr().out == "removed 0.1.0: 0 MiB\n"
    assert folder.listed() == ["0.2.0", "0.3.0"]


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Installed]:
    home = tmp_path / "first" / "home"
    home.parent.mkdir()
    with running(home, "metrics", TWD_BUS_HOST="0.0.0.0", TWD_NODE="first") as installed:
        yield installed


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.thorough
def test_a_machine_that_is_unknown_or_not_reached(first: Installed, tmp_path: Path) -> None:
    unknown = first.twd("upgrade", "attic")
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "attic: no such machine; there are: first" in unknown.stderr
    token = json.loads(first.twd("token", "add", "--json").stdout)["token"]
    (tmp_path / "rig").mkdir()
    rig = Installed(tmp_path / "rig" / "home")
    joined = rig.twd("join", "--node", "rig", TWD_JOIN_TOKEN=token)
    assert joined.returncode == 0, joined.stderr
    before = sorted(os.listdir(rig.home))
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(NO_SUCH_HOST)
    ssh.chmod(0o755)
    path = f"{ssh.parent}:{os.environ['PATH']}"
    refused = first.twd("upgrade", "--all", "--json", "--ssh-user", "me", PATH=path)
    assert refused.returncode == ExitCode.CANNOT_START
    (report,) = json.loads(refused.stdout)
    assert report["node"] == "rig"
    assert "its name cannot be resolved" in report["error"]
    assert [step["name"] for step in report["steps"]] == ["look"]
    assert sorted(os.listdir(rig.home)) == before
