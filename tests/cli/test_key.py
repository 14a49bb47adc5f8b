"""Keys from the command line: shown once, kept as hashes, refused when they make no sense."""

import json
import stat
from pathlib import Path

import pytest

from twd.cli.app import run
from twd.edge.auth.keys import KeyRing, KeyStore
from twd.kit.exit_codes import ExitCode


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_key_is_shown_once_and_kept_as_a_hash(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "add", "laptop", "--model", "small", "--model", "big", "--concurrent", "2"]) == 0
    secret = capsys.readouterr().out.strip()
    file = KeyStore(home).path
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = KeyRing(KeyStore(home).load()).find(secret)
    assert key is not None
    assert (key.name, key.models, key.concurrent, key.tokens_per_day) == ("laptop", ["small", "big"], 2, 0)


def test_the_first_and_the_last_key_change_who_may_enter(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for arguments in (["add", "one"], ["add", "two"], ["revoke", "one"], ["revoke", "two"]):
        assert run(["key", *arguments]) == 0
        said.append("without a key" in capsys.readouterr().err)
    assert said == [True, False, False, True]


def test_keys_are_listed_without_their_hashes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "list"]) == 0
    assert "twd key add NAME" in capsys.readouterr().out
    assert run(["key", "add", "one", "--json", "--requests-per-minute", "60", "--tokens-per-day", "9000"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith("twd_")
    assert run(["key", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert (listed["requests_per_minute"], listed["tokens_per_day"]) == (60, 9000)
    assert run(["key", "list"]) == 0
    assert made["created_ms"] > 0
    assert "60" in capsys.readouterr().out.splitlines()[1].split()


def test_a_revoked_key_opens_nothing_and_keeps_its_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "add", "one", "--json"]) == 0
    secret = json.loads(capsys.readouterr().out)["key"]
    assert run(["key", "revoke", "one"]) == 0
    assert KeyRing(KeyStore(home).load()).find(secret) is None
    capsys.readouterr()
    assert run(["key", "list"]) == 0
    assert "revoked" in capsys.readouterr().out
    assert run(["key", "add", "one"]) == ExitCode.USAGE


def test_a_key_that_is_not_there_is_not_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "revoke", "nobody"]) == ExitCode.NOT_FOUND
    assert "known: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["add", "two words"], ["add", ""], ["add", "x", "--concurrent", "0"], ["add", "x", "y"]],
)
def test_nonsense_is_refused_in_one_line(home: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", *arguments]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err
    assert KeyStore(home).load() == []


@pytest.mark.parametrize("arguments", [["key", "list"], ["key", "add", "one"], ["key", "revoke", "one"], ["up"]])
def test_a_broken_file_is_not_taken_for_a_bus_that_is_away(
    home: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    KeyStore(home).path.write_text("{")
    assert run(arguments) == (ExitCode.CANNOT_START if arguments == ["up"] else ExitCode.CONFIG)
    assert "keys.json cannot be read" in capsys.readouterr().err
