"""What people see of an answer, and what a pipe gets."""

import pytest

from twd.cli.chat.screen import Screen


def said(screen: Screen) -> None:
    screen.thought("Let me")
    screen.thought(" see\x1b[2J")
    screen.text("Os")
    screen.text("lo")
    screen.end_line()


def test_thoughts_stand_above_the_answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    said(Screen(terminal=True))
    assert capsys.readouterr().out == "Let me see[2J\n\nOslo\n"


def test_a_pipe_gets_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    said(Screen(terminal=False))
    assert capsys.readouterr().out == "Oslo\n"
