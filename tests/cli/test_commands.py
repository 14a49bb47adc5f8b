"""Commands that need nothing running: what they print, and what their exit codes say."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from twd.cli.app import COMMANDS, run
from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.up import _holding
from twd.kit.exit_codes import ExitCode
from twd.process import platform
from twd.process.home import RunningInstance, StateFolder
from twd.settings.model import ModelConfig, Settings

HEAVY = {"nats", "aiohttp", "rich", "yaml", "numpy", "psutil", "llama_cpp", "jinja2", "uvloop"}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))


def test_help_lists_every_command_and_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    script = "import sys; from twd.cli.app import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: twd {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("twd, version ")


INTERRUPTED = """
import atexit, os, signal, sys
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
class Imports:
    def find_spec(self, name, *more):
        if name == "twd.cli.app": interrupt()
if "early" in sys.argv: sys.meta_path.insert(0, Imports())
else: atexit.register(interrupt)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[1:] = ["--version"]
from twd.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals between processes")
@pytest.mark.parametrize("when", ["early", "late"])
def test_an_interrupt_before_or_after_the_work_shows_no_traceback(when: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("arguments", [["nonsense"], ["up", "--nonsense"], ["run", "nobody"], ["completion", "tcsh"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stauts"], "Did you mean 'status'?"),
        (["plan"], "the settings name no model; give a GGUF file with `twd plan FILE`"),
        (["plan", "huge"], "there is no model 'huge': configured are none"),
        (["slice", "~no-such-user/x.gguf", "0-3"], "there is no file ~no-such-user/x.gguf"),
        (["reclaim", "--file", "~no-such-user/x.gguf"], "there is no file ~no-such-user/x.gguf"),
        (["watch", "-n", "-1"], "Invalid value for '-n'"),
        (["up", "--link-rtt", "5"], "--link-rtt goes with --ring or --rpc"),
        (["up", "--demo", "--head", "head.gguf"], "the demo brings its drafter"),
        (["up", "--head", "head.gguf"], "the settings name none"),
        (["key", "add", "two words"], "a name has 1 to 64 letters"),
        (["slice", "0-3"], "a FILE and its layers A-B are needed"),
        (["run", "drafter", "--model", "/no/such.gguf"], "`twd up` starts it"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) in (ExitCode.USAGE, ExitCode.NOTHING_RUNS, ExitCode.NOT_FOUND)
    assert words in capsys.readouterr().err


def test_a_start_that_is_ended_meanwhile_shows_no_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("twd.cli.detach.twd_command", lambda *_: (sys.executable, "-c", ""))
    assert run(["up", "-d", "--no-models"]) == ExitCode.CANNOT_START
    assert capsys.readouterr().err == "twd: it was ended while it started, as `twd down` does\n"


def test_a_door_that_is_open_to_a_network_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWD_EDGE_HOST", "0.0.0.0")
    assert run(["up", "--no-models"]) == ExitCode.CANNOT_START
    said = capsys.readouterr()
    assert "twd key add NAME" in said.err
    assert "starting" not in said.out


@pytest.mark.parametrize(
    ("content", "code", "words"), [(None, ExitCode.NOT_FOUND, "no file"), (b"GG", ExitCode.CANNOT_START, "big.gguf: ")]
)
def test_nothing_starts_for_a_model_that_cannot_be_loaded(
    tmp_path: Path, content: bytes | None, code: ExitCode, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "big.gguf"
    if content is not None:
        file.write_bytes(content)
    (tmp_path / "twd.yaml").write_text(f"models: {{big: {{path: {file}}}}}\n")
    assert run(["start"]) == code
    told = capsys.readouterr()
    assert words in told.err
    assert "nothing runs yet" not in told.out


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["watch"], ["trace", "job-1"], ["trace"]])
def test_nothing_runs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == ExitCode.NOTHING_RUNS
    assert "`twd up` starts it" in capsys.readouterr().err


def test_a_bus_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TWD_BUS_URL", "nats://127.0.0.1:1")
    monkeypatch.setattr("twd.cli.common.context.BUS_WAIT_S", 0.1)
    assert run(["status"]) == ExitCode.BUS_DOWN
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help"]) == 0
    plain = capsys.readouterr().out
    assert run(["help", "exit-codes", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert set(table) == {str(int(code)) for code in ExitCode}
    assert all(meaning in plain for meaning in table.values())


def test_config_check_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check"]) == 0
    (tmp_path / "twd.yaml").write_text("edge:\n  prot: 1\n")
    assert run(["config", "check"]) == ExitCode.CONFIG
    assert "twd.yaml:2" in capsys.readouterr().out
    assert run(["config", "check", "--json"]) == ExitCode.CONFIG
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1
    assert run(["up"]) == ExitCode.CONFIG
    assert run(["-c", "nowhere.yaml", "config", "show"]) == ExitCode.CONFIG
    assert "nowhere.yaml" in capsys.readouterr().err


def test_config_show_masks_secrets_and_names_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWD_EDGE_TOKEN", "hunter2hunter2")
    assert run(["config", "show", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert json.loads(shown)["edge.token"]["source"] == "TWD_EDGE_TOKEN"
    assert run(["config", "show", "--changed"]) == 0
    plain = capsys.readouterr().out
    assert "edge.token" in plain
    assert "edge.port" not in plain
    assert all(line == line.rstrip() for line in plain.splitlines())


def test_schemas_are_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(Path(__file__).parents[2] / "bus_schemas")
    assert run(["schemas", "check", "--folder", folder]) == 0
    assert run(["schemas", "write", "--folder", str(tmp_path / "new")]) == 0
    assert run(["schemas", "check", "--folder", str(tmp_path / "new")]) == ExitCode.DIFFERENT
    assert "samples/" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_TWD_COMPLETE" in capsys.readouterr().out


def test_completion_completes() -> None:
    environment = {"_TWD_COMPLETE": "bash_complete", "COMP_WORDS": "twd st", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "twd"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "status" in done.stdout


def test_a_fault_of_ours_is_a_line_and_with_debug_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("twd.process.home.StateFolder.held", broken)
    assert run(["down"]) == ExitCode.FAULT
    told = capsys.readouterr().err
    assert "ZeroDivisionError: planted" in told
    assert "Traceback" not in told
    monkeypatch.setenv("TWD_DEBUG", "1")
    assert run(["down"]) == ExitCode.FAULT
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "told", "mend"),
    [(errno.ENOSPC, "the disk is full", "Make room"), (errno.EROFS, "nothing can be written there", "TWD_HOME")],
)
def test_a_disk_without_room_or_without_writing_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, told: str, mend: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("twd.process.home.StateFolder.held", refused)
    assert run(["down"]) == ExitCode.CANNOT_START
    shown = capsys.readouterr().err
    assert told in shown
    assert mend in shown


def test_what_belongs_to_another_user_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a `sudo twd up`."""

    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/state/run/lock")

    monkeypatch.setattr("twd.process.home.StateFolder.held", closed)
    assert run(["down"]) == ExitCode.CANNOT_START
    shown = capsys.readouterr().err
    assert "'/state/run/lock'" in shown
    assert "a fault in twd" not in shown


@pytest.mark.parametrize("says", ["click.echo(text)", "console().print(text)"])
def test_a_reader_that_goes_away_is_no_fault(says: str) -> None:
    """As `twd status | head -1` does."""
    script = f"""if True:
        import click, sys
        from twd.cli import help
        from twd.cli.app import run
        from twd.kit.terminal import console

        def tell() -> None:
            for text in ["long" * 30_000] * 9:
                {says}

        help.help_command = click.Command("help", callback=tell)
        sys.exit(run(["help"]))"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(60) == ExitCode.OK
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("closed", "arguments"), [(1, "config show"), (0, "init --local"), (0, "chat")])
def test_a_stream_that_is_closed_is_no_fault(closed: int, arguments: str) -> None:
    command = f"exec {closed}>&-; exec {sys.executable} -m twd {arguments}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (ExitCode.OK, ExitCode.USAGE, ExitCode.NOT_FOUND)
    assert "a fault in twd" not in done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Iterator[StateFolder]:
    """The state folder of these commands, held as a supervisor holds it."""
    home = StateFolder(tmp_path / "state")
    home.prepare()
    held = home.acquire()
    yield home
    os.close(held)


def record_of(pid: int, born: float) -> RunningInstance:
    return RunningInstance(pid=pid, born=born, started_ms=1, version="0", node="desk")


def test_settings_of_a_supervisor_that_was_killed_count_no_more(tmp_path: Path) -> None:
    home = StateFolder(tmp_path / "state")
    home.prepare()
    home.settings_file.write_bytes(msgspec.json.encode(Settings(models={"demo": ModelConfig(path="demo.gguf")})))
    assert running_settings(CliContext()).default_model == ""
    lock = home.acquire()
    assert running_settings(CliContext()).default_model == "demo"
    os.close(lock)


def test_down_ends_nobody_whose_record_is_of_another_process(
    home: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_instance(record_of(os.getpid(), 1.0))
    assert run(["down"]) == ExitCode.FAULT
    assert "nothing was ended" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["down", "status"])
def test_a_holder_without_a_readable_record_is_told(
    home: StateFolder, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("twd.process.home.RECORD_PATIENCE_S", 0.0)
    (home.run / "instance.json").write_text("{half")
    assert run([command]) == ExitCode.FAULT
    assert f"{home.run / 'instance.json'}" in capsys.readouterr().err


def test_status_of_an_instance_that_has_just_started(home: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    home.write_instance(record_of(os.getpid(), 1.0))
    assert run(["status"]) == ExitCode.UNHEALTHY
    assert f"pid {os.getpid()}" in capsys.readouterr().err


def test_who_holds_the_home_says_so_from_the_first_moment_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.cli.up._log_to_file", lambda ctx: None)
    ctx = CliContext()
    ctx.home.prepare()
    with _holding(ctx):
        instance = ctx.instance()
        assert instance is not None
        assert (instance.pid, instance.bus_url) == (os.getpid(), "")
    assert ctx.home.read_instance() == (None, "")


HOLD = """
import pathlib, signal, sys
from twd.process.home import StateFolder
signal.signal(signal.SIGTERM, signal.SIG_IGN)
StateFolder(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
signal.pause()
"""


def start_deaf(home: StateFolder) -> "subprocess.Popen[str]":
    """A supervisor that leads no process group, as under make, and does not end when it is asked to."""
    command = [sys.executable, "-c", HOLD, str(home.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    home.write_instance(record_of(process.pid, platform.born(process.pid) or 0.0))
    return process


@pytest.mark.parametrize("command", ["down", "up", "start"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_wait_has_an_end(command: str, seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--timeout", seconds]) == ExitCode.USAGE
    assert "--timeout" in capsys.readouterr().err


def test_down_kills_a_supervisor_that_leads_no_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = StateFolder(tmp_path / "state")
    home.prepare()
    with start_deaf(home) as process:
        assert run(["down", "--timeout", "0.1", "--json"]) == ExitCode.OK
        assert process.wait(10) == -signal.SIGKILL
    assert json.loads(capsys.readouterr().out)["killed"]


def test_down_does_not_claim_to_have_killed_what_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = StateFolder(tmp_path / "state")
    home.prepare()
    monkeypatch.setattr(platform, "kill", lambda pid: None)
    monkeypatch.setattr("twd.cli.down.KILLED_S", 0.0)
    with start_deaf(home) as process:
        assert run(["down", "--timeout", "0"]) == ExitCode.FAULT
        assert f"pid {process.pid} still holds" in capsys.readouterr().err
        process.kill()
