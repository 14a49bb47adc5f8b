"""`twd service install`, `uninstall` and `status` on a machine whose programs are played."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.setup.units.machine import PlayedSystemd, machine_at
from twd.cli.app import app
from twd.cli.service import command
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode


class Machine:
    """One machine, and commands on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, uid: int, platform: str = "linux") -> None:
        self.root = root
        self.programs = PlayedSystemd()
        self.system = machine_at(root, self.programs, uid, platform)
        monkeypatch.setattr(command, "LocalSystem", lambda: self.system)
        monkeypatch.chdir(self.system.home)
        monkeypatch.setenv("HOME", str(self.system.home))

    def twd(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, standalone_mode=False)

    def fails(self, *arguments: str) -> CommandError:
        error = self.twd(*arguments).exception
        assert isinstance(error, CommandError)
        return error

    @property
    def files(self) -> dict[str, str]:
        """Everything that was written."""
        found = [file for file in self.root.rglob("*") if file.is_file()]
        return {str(file.relative_to(self.root)): file.read_text() for file in found}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch, uid=0)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch, uid=1000)


UNIT = "etc/systemd/system/twd.service"
MY_UNIT = "home/me/.config/systemd/user/twd.service"


def test_a_service_of_the_machine(machine: Machine) -> None:
    done = machine.twd("service", "install")
    assert done.exception is None, done.output
    assert machine.programs.calls == [
        "systemctl show-environment",
        "useradd --system --user-group --no-create-home --home-dir /var/lib/twd --shell /usr/sbin/nologin twd",
        "systemctl daemon-reload",
        "systemctl enable twd.service",
        "systemctl reset-failed twd.service",
        "systemctl start twd.service",
    ]
    assert "User=twd" in machine.files[UNIT]
    assert "twd.service runs: serves big" in done.output


def test_again_nothing_changes(machine: Machine) -> None:
    machine.twd("service", "install")
    (machine.root / "etc/passwd").write_text("twd:x:999:999::/var/lib/twd:/usr/sbin/nologin\n")
    before, machine.programs.calls = machine.files, []
    done = machine.twd("service", "install")
    assert machine.programs.calls == ["systemctl show-environment"]
    assert machine.files == before
    assert "is as it should be" in done.output


def test_a_unit_that_was_changed_by_hand_is_not_written_over(machine: Machine) -> None:
    machine.twd("service", "install")
    unit = machine.root / UNIT
    unit.write_text(unit.read_text() + "Nice=5\n")
    error = machine.fails("service", "install", "--config", _config(machine, "edge: {port: 9}\n"))
    assert error.exit_code == ExitCode.DIFFERENT
    assert f"{unit}.d/own.conf" in str(error)
    assert unit.read_text().endswith("Nice=5\n")
    done = machine.twd("service", "uninstall")
    assert f"kept as {unit}.kept" in done.output
    assert Path(f"{unit}.kept").read_text().endswith("Nice=5\n")


def _config(machine: Machine, text: str) -> str:
    file = machine.system.home / "twd.yaml"
    file.write_text(text)
    return str(file)


def test_settings_get_a_copy_where_the_service_can_read_them(machine: Machine) -> None:
    done = machine.twd("service", "install", "--config", _config(machine, "edge: {port: 9}\n"))
    assert done.exception is None, done.output
    target = machine.root / "etc/twd/twd.yaml"
    assert target.read_text() == "edge: {port: 9}\n"
    assert f"-c {target} up" in machine.files[UNIT]
    error = machine.fails("service", "install", "--config", _config(machine, "edge: {port: 10}\n"))
    assert error.exit_code == ExitCode.DIFFERENT
    assert target.read_text() == "edge: {port: 9}\n"


@pytest.mark.parametrize("path", ["~/models/a.gguf", "a.gguf", "./a.gguf"])
def test_paths_that_would_lead_elsewhere_are_refused_before_anything_is_changed(machine: Machine, path: str) -> None:
    before = machine.files
    config = _config(machine, f"models: {{a: {{path: '{path}'}}}}\n")
    error = machine.fails("service", "install", "--config", config)
    assert error.exit_code == ExitCode.CONFIG
    assert "models.a.path" in str(error)
    assert {**machine.files, "home/me/twd.yaml": ""} == {**before, "home/me/twd.yaml": ""}
    assert machine.programs.calls == []


def test_a_model_that_the_service_could_not_read_is_refused(machine: Machine) -> None:
    folder = machine.root / "private"
    folder.mkdir(mode=0o700)
    (folder / "a.gguf").write_bytes(b"GGUF")
    config = _config(machine, f"models: {{a: {{path: '{folder}/a.gguf'}}}}\n")
    error = machine.fails("service", "install", "--config", config)
    assert "closed to others" in str(error)


def test_settings_of_this_terminal_are_handed_on_and_secrets_apart(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWD_EDGE_HOST", "0.0.0.0")
    monkeypatch.setenv("TWD_TOKEN", "a-secret-of-25-characters")
    dry = machine.twd("service", "install", "--dry-run")
    assert "a-secret" not in dry.output
    assert UNIT not in machine.files
    done = machine.twd("service", "install")
    assert done.exception is None, done.output
    unit = machine.files[UNIT]
    secret = machine.root / "etc/twd/credentials/edge.token"
    assert 'Environment="TWD_EDGE_HOST=0.0.0.0"' in unit
    assert f"LoadCredential=edge.token:{secret}" in unit
    assert secret.read_text() == "a-secret-of-25-characters"
    assert secret.stat().st_mode & 0o077 == 0
    assert secret.parent.stat().st_mode & 0o077 == 0
    everywhere = [*(text for name, text in machine.files.items() if not name.endswith("edge.token")), done.output]
    assert not [text for text in [*everywhere, *machine.programs.calls] if "a-secret" in text]
    monkeypatch.delenv("TWD_TOKEN")
    assert machine.twd("service", "install").exception is None
    assert machine.files[UNIT] == unit


def test_a_door_that_would_be_open_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWD_EDGE_HOST", "0.0.0.0")
    assert machine.fails("service", "install").exit_code == ExitCode.CANNOT_START
    assert UNIT not in machine.files


def test_a_service_of_a_user(mine: Machine) -> None:
    done = mine.twd("service", "install", "--agent")
    assert done.exception is None, done.output
    assert "loginctl enable-linger" in mine.programs.calls
    assert all(call.startswith(("systemctl --user", "loginctl")) for call in mine.programs.calls)
    unit = mine.files[MY_UNIT.replace("twd.service", "twd-agent.service")]
    assert " up agent\n" in unit
    assert f'Environment="TWD_HOME={mine.system.home}/.twd"' in unit
    error = mine.fails("service", "install")
    assert error.exit_code == ExitCode.ALREADY_RUNNING
    assert "twd service uninstall --agent" in str(error)


def test_only_root_installs_for_the_machine(mine: Machine) -> None:
    assert mine.fails("service", "install", "--system").exit_code == ExitCode.USAGE
    assert mine.programs.calls == []


def test_without_systemd_nothing_is_changed(machine: Machine) -> None:
    (machine.root / "run/systemd/system").rmdir()
    error = machine.fails("service", "install")
    assert "twd up -d" in str(error)
    assert UNIT not in machine.files
    assert machine.twd("service", "status").return_value == ExitCode.NOTHING_RUNS


def test_a_start_that_fails_says_why(machine: Machine) -> None:
    machine.programs.fails = {"systemctl start": "Job failed."}
    machine.programs.journal = "speculator.big cannot start: no such file"
    error = machine.fails("service", "install")
    assert error.exit_code == ExitCode.CANNOT_START
    assert "speculator.big cannot start: no such file" in str(error)


def test_uninstall_keeps_models_and_keys_and_purge_removes_them(machine: Machine) -> None:
    machine.twd("service", "install")
    state = machine.root / "var/lib/twd"
    (state / "models").mkdir(parents=True)
    (state / "models/a.gguf").write_bytes(b"GGUF")
    done = machine.twd("service", "uninstall")
    assert machine.programs.calls[-3:] == [
        "systemctl stop twd.service",
        "systemctl disable twd.service",
        "systemctl daemon-reload",
    ]
    assert UNIT not in machine.files
    assert f"kept: {state}" in done.output
    assert (state / "models/a.gguf").exists()
    done = machine.twd("service", "uninstall", "--purge")
    assert f"removed: {state}" in done.output
    assert not state.exists()


def test_status_in_words_and_as_json(machine: Machine) -> None:
    assert machine.twd("service", "status").output == "twd: not installed; `twd service install` does that\n"
    machine.twd("service", "install")
    shown = machine.twd("service", "status")
    assert (shown.output, shown.return_value) == ("twd: running; serves big; pid 4711\n", ExitCode.OK)
    facts: dict[str, Any] = json.loads(machine.twd("service", "status", "--json").output)
    assert facts["twd"]["works"] if "works" in facts["twd"] else facts["twd"]["active"]
    machine.programs.active.clear()
    assert machine.twd("service", "status").return_value == ExitCode.NOTHING_RUNS


def test_on_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Machine(tmp_path, monkeypatch, uid=501, platform="darwin")
    mac.programs.fails = {"launchctl print": "Could not find service"}
    done = mac.twd("service", "install")
    assert done.exception is None, done.output
    job = mac.system.home / "Library/LaunchAgents/local.twd.plist"
    assert mac.programs.calls == [f"launchctl bootstrap gui/501 {job}"]
    mac.programs.fails = {}
    assert f"{job} removed" in mac.twd("service", "uninstall").output
    assert mac.programs.calls[-1] == "launchctl bootout gui/501/local.twd"


def test_logs_show_what_the_journal_holds_of_the_service(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.setup.units.system.LocalSystem", lambda: machine.system)
    monkeypatch.setenv("TWD_HOME", "/var/lib/twd")
    machine.twd("service", "install")
    machine.programs.journal = json.dumps(
        {"MESSAGE": "Failed to start twd.", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "systemd"}
    )
    shown = machine.twd("logs", "service")
    assert shown.exception is None
    assert "systemd: Failed to start twd." in shown.output
