"""`twd token`, `join`, `leave` and `node`: what they refuse, in which words, and with which exit code."""

import io
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import pytest

from tests.membership.test_core import NOW, a_token, asks
from twd.bus.join import JoinToken, read_token
from twd.bus.seeds import draw_raw
from twd.cli.app import run
from twd.cli.members.token import TimeSpan
from twd.kit.exit_codes import ExitCode
from twd.membership.core import admit, with_token
from twd.membership.store import MemberStore
from twd.process import platform
from twd.process.home import RunningInstance, StateFolder
from twd.settings.identity import FILE_NAME, Identity

PIN = "ab" * 32
Said = pytest.CaptureFixture[str]
NOWHERE = JoinToken(("127.0.0.1:1",), PIN, draw_raw()).as_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    """A state folder in which nothing runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    home = StateFolder(tmp_path / "state")
    home.prepare()
    (home.path / "broker").mkdir()
    return home


@pytest.fixture
def running(home: StateFolder) -> Iterator[StateFolder]:
    """The same, with an installation whose broker others reach; the broker itself is not there."""
    held = home.acquire()
    instance = RunningInstance(
        pid=os.getpid(),
        born=platform.born(os.getpid()) or 0.0,
        started_ms=1,
        version="1",
        node="first",
        bus_url="tls://127.0.0.1:4333",
        bus_fingerprint=PIN,
        bus_keys=str(home.path / "broker" / "keys" / "first"),
        processes={"broker": 1},
    )
    home.write_instance(instance)
    yield home
    os.close(held)


def joined(home: StateFolder) -> None:
    identity = Identity(node="second", url="tls://127.0.0.1:1", fingerprint=PIN, roles=("machine",))
    (home.path / FILE_NAME).write_bytes(msgspec.json.encode(identity))
    (home.path / "keys").mkdir()


# -- tokens ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("running")
def test_a_token_is_one_line_with_addresses_and_what_to_do_is_said_beside(
    capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWD_BUS_HOST", "0.0.0.0")
    taken: list[str] = []

    async def take(store: MemberStore, address: object) -> None:
        taken.append(store.users_file.read_text())

    monkeypatch.setattr("twd.membership.tokens.reload_users", take)
    assert run(["token", "add", "--host", "rig.lan", "--host", "fe80::1", "--role", "drafter", "--role", "edge"]) == 0
    said = capsys.readouterr()
    token = read_token(said.out)
    assert (token.addresses, token.fingerprint) == (("rig.lan:4333", "[fe80::1]:4333"), PIN)
    assert "secret" in said.err
    assert token.public_key in taken[0]
    assert run(["token", "list", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["state"], shown["roles"]) == (token.id, "valid", ["drafter", "edge"])
    assert run(["token", "list"]) == 0
    assert token.id in capsys.readouterr().out


@pytest.mark.usefixtures("running")
def test_a_broker_on_loopback_lets_nobody_in(capsys: Said) -> None:
    assert run(["token", "add"]) == ExitCode.CONFIG
    assert "TWD_BUS_HOST" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_where_nothing_runs_there_is_nothing_to_join(capsys: Said) -> None:
    assert run(["token", "add"]) == ExitCode.NOTHING_RUNS
    assert "twd up" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", [["token", "add"], ["token", "list"], ["node", "list"], ["node", "remove", "x"]])
def test_a_broker_elsewhere_is_managed_there(command: list[str], capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWD_BUS_URL", "nats://elsewhere:4222")
    assert run(command) == ExitCode.CONFIG
    assert "run this on its machine" in capsys.readouterr().err


def test_a_token_is_revoked_by_its_short_name(home: StateFolder, capsys: Said) -> None:
    token = a_token()
    MemberStore(home.path).change(partial(with_token, token=token, now_ms=NOW))
    assert run(["token", "revoke", "nothing"]) == ExitCode.NOT_FOUND
    assert "there is no token 'nothing'" in capsys.readouterr().err
    assert run(["token", "revoke", token.id]) == ExitCode.OK
    assert MemberStore(home.path).load().tokens[0].revoked


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("365d", 365 * 86400)])
def test_times(text: str, seconds: int) -> None:
    assert TimeSpan().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0s", "24", "h", "-1h", "366d", "1w", "1.5h", "99999999999d", "1h 2m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        TimeSpan().convert(text, None, None)


# -- joining -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("twd1_qzqz", "cut or changed"),
        (NOWHERE[:-9], "cut or changed"),
        ("twd9_x", "another version"),
    ],
)
def test_a_token_that_cannot_be_used(text: str, told: str, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert run(["join", "--token-file", "-"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert told in said
    assert not text or text not in said


def test_a_token_comes_from_a_file_or_a_variable(
    home: StateFolder, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.membership.joining.REACH_S", 0.3)
    (home.path / "token").write_text(f"  {NOWHERE}\n")
    assert run(["join", "--token-file", str(home.path / "token")]) == ExitCode.BUS_DOWN
    monkeypatch.setenv("TWD_JOIN_TOKEN", NOWHERE)
    assert run(["join"]) == ExitCode.BUS_DOWN
    said = capsys.readouterr().err
    assert said.count("no broker answers at tls://127.0.0.1:1") == 2
    assert NOWHERE not in said
    assert not (home.path / FILE_NAME).exists()
    assert run(["join", "--token-file", "nowhere"]) == ExitCode.NOT_FOUND


@pytest.mark.usefixtures("home")
def test_without_a_token_it_says_how_to_give_one(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    assert run(["join"]) == ExitCode.USAGE
    assert "TWD_JOIN_TOKEN" in capsys.readouterr().err


@pytest.mark.usefixtures("running")
def test_who_runs_an_installation_of_its_own_ends_it_first(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWD_JOIN_TOKEN", NOWHERE)
    assert run(["join"]) == ExitCode.ALREADY_RUNNING
    assert "twd down" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_a_setting_that_names_a_broker_is_in_the_way(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWD_JOIN_TOKEN", NOWHERE)
    monkeypatch.setenv("TWD_BUS_URL", "nats://elsewhere:4222")
    assert run(["join"]) == ExitCode.CONFIG
    assert "bus.url names a broker already (TWD_BUS_URL)" in capsys.readouterr().err


def test_who_belongs_to_another_installation_leaves_it_first(
    home: StateFolder, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(home)
    monkeypatch.setenv("TWD_JOIN_TOKEN", JoinToken(("127.0.0.1:1",), "cd" * 32, draw_raw()).as_text())
    assert run(["join"]) == ExitCode.CONFIG
    assert "twd leave --force" in capsys.readouterr().err
    assert (home.path / FILE_NAME).exists()


# -- leaving -----------------------------------------------------------------------------------------


def test_who_never_joined_cannot_leave(home: StateFolder, capsys: Said) -> None:
    assert run(["leave"]) == ExitCode.NOT_FOUND
    assert str(home.path) in capsys.readouterr().err


def test_who_cannot_tell_stays_unless_forced(home: StateFolder, capsys: Said) -> None:
    joined(home)
    (home.path / "keys" / "member.nk").write_bytes(b"SUAAAAA")
    assert run(["leave"]) == ExitCode.BUS_DOWN
    assert (home.path / FILE_NAME).exists()
    assert run(["leave", "--force"]) == ExitCode.OK
    assert "its keys are deleted" in capsys.readouterr().out
    assert not (home.path / FILE_NAME).exists()
    assert not (home.path / "keys").exists()


def test_machines_are_listed_and_removed_while_nothing_runs(home: StateFolder, capsys: Said) -> None:
    store, token = MemberStore(home.path), a_token()
    store.change(lambda members: admit(with_token(members, token, NOW), token.id, asks(), [], NOW).members)
    assert run(["node", "list"]) == ExitCode.OK
    assert "second" in capsys.readouterr().out
    assert run(["node", "remove", "third"]) == ExitCode.NOT_FOUND
    assert "these did: second" in capsys.readouterr().err
    assert run(["node", "remove", "second", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"node": "second", "removed": True}
    assert run(["node", "list", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == []


def test_what_the_broker_would_not_let_in_is_not_started(home: StateFolder, capsys: Said) -> None:
    joined(home)
    for role in ("agent", "swarm", "supervisor"):
        (home.path / "keys" / f"{role}.nk").write_bytes(b"")
    assert run(["up"]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert "without the right to run edge, metrics" in said
    assert "twd up agent swarm" in said
