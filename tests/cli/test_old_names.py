"""`twd proxy` and `twd peer`: the commands of today are run, and named once."""

import os
from typing import Any

import click
import pytest

from twd.cli import old_names
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.process import platform
from twd.process.home import RunningInstance, StateFolder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was run instead, with what it was given."""
    seen: list[tuple[str, Any]] = []

    def fake(name: str) -> click.Command:
        @click.command(name)
        @click.argument("services", nargs=-1)
        @click.pass_obj
        def command(ctx: Any, services: tuple[str, ...]) -> ExitCode:
            seen.append((name, (services, ctx.environment.get("TWD_AGENT_PORT"))))
            return ExitCode.OK

        return command

    for name in ("up", "down", "status"):
        monkeypatch.setattr(old_names, name, fake(name))
    return seen


@pytest.mark.parametrize(
    ("typed", "now", "does", "given"),
    [
        ("proxy start", "twd up", "up", ((), None)),
        ("proxy stop", "twd down", "down", ((), None)),
        ("proxy status", "twd status", "status", ((), None)),
        ("peer start", "twd up agent", "up", (("agent",), None)),
        ("peer start --port 9200", "TWD_AGENT_PORT=9200 twd up agent", "up", (("agent",), "9200")),
        ("peer stop", "twd down", "down", ((), None)),
        ("peer status", "twd status", "status", ((), None)),
    ],
)
def test_what_was_typed_does_what_it_did_and_names_the_new_way_once(
    typed: str,
    now: str,
    does: str,
    given: Any,
    ran: list[tuple[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path))
    assert run(typed.split()) == ExitCode.OK
    assert ran == [(does, given)]
    assert capsys.readouterr().err.count(f"is now `{now}`") == 1


def test_stopping_the_agent_ends_nothing_else(
    ran: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path))
    home = StateFolder(tmp_path)
    home.prepare()
    held = home.acquire()
    born = platform.born(os.getpid()) or 0.0
    record = RunningInstance(
        pid=os.getpid(), born=born, started_ms=1, version="1", node="here", processes={"agent": 1, "edge": 2}
    )
    home.write_instance(record)
    assert run(["peer", "stop"]) == ExitCode.USAGE
    assert "more than the agent runs here: edge" in capsys.readouterr().err
    assert not ran
    os.close(held)
