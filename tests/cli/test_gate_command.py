"""What `twd gate` says before it asks anybody."""

from pathlib import Path

import pytest

from twd.cli.app import run
from twd.cli.gate.calibrating import _with_profiles
from twd.gate.calibration.profile import Conditions, Profile, write
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))


def prompts(folder: Path, count: int) -> str:
    file = folder / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "{n}?", "check": {{"contains": "{n}"}}}}\n' for n in range(count)))
    return str(file)


def test_too_few_prompts_are_not_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", "calibrate", prompts(tmp_path, 100)]) == ExitCode.DIFFERENT
    assert "nobody was asked: 5% at 95% takes 59 passes" in capsys.readouterr().out
    assert run(["gate", "calibrate", prompts(tmp_path, 180)]) == ExitCode.NOTHING_RUNS


def test_prompts_without_a_check_are_none_where_checks_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "{n}?"}}\n' for n in range(180)))
    assert run(["gate", "calibrate", str(file)]) == ExitCode.DIFFERENT
    out = capsys.readouterr().out
    assert "prompt 1: it has no check; give one, or --error same" in out
    assert "... and 170 more\n" in out
    assert "it has 0 answers: give about 177 more prompts" in out
    assert run(["gate", "calibrate", str(file), "--error", "same"]) == ExitCode.NOTHING_RUNS


def test_a_prompt_may_hold_any_character(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "one\u2028two\x85{n}"}}\n' for n in range(180)), "utf-8")
    assert run(["gate", "calibrate", str(file), "--error", "same"]) == ExitCode.NOTHING_RUNS


@pytest.mark.parametrize("option", ["--keep", "--plot"])
def test_a_file_that_cannot_be_written_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run(["gate", "calibrate", prompts(tmp_path, 180), option, "nowhere/file"]) == ExitCode.USAGE
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_without_a_running_gate_there_is_no_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", "status"]) == ExitCode.NOTHING_RUNS
    assert "Traceback" not in capsys.readouterr().err


def conditions(member: str) -> Conditions:
    return Conditions(judge="big", member=member, judge_is="x", member_is="y", sampling="s", hold="48")


def test_members_without_a_profile_are_passed_over_unless_they_were_named(tmp_path: Path) -> None:
    good, poor = conditions("good"), conditions("poor")
    made = Profile(
        conditions=good,
        statistic="mean",
        tolerance=1.0,
        max_error=0.05,
        confidence=0.95,
        passes=100,
        errors=0,
        bound=0.03,
        prompts="p",
    )
    with pytest.raises(CommandError, match="good: it was never calibrated"):
        _with_profiles(tmp_path, [good, poor], named=False)
    write(tmp_path, made)
    assert _with_profiles(tmp_path, [good, poor], named=False) == [good]
    with pytest.raises(CommandError, match="poor: it was never calibrated"):
        _with_profiles(tmp_path, [good, poor], named=True)
