"""`twd bench`: numbers that cannot be measured or played with are refused."""

from pathlib import Path

import pytest

from twd.cli.app import run
from twd.kit.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--link-rtt", "20"), "--link-rtt goes with --ring only"),
        (("--target-ms", "5"), "--target-ms goes with --simulate only"),
        (("--ring", "2", "--accept", "0.5"), "--accept goes with --simulate only"),
        (("--ring", "2", "--rounds", "3"), "--rounds does not go with --ring"),
        (("--simulate", "-m", "big"), "--model does not go with --simulate"),
        (("--simulate", "--max-tokens", "9"), "--max-tokens does not go with --simulate"),
    ],
)
def test_no_option_is_left_aside_in_silence(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == ExitCode.USAGE
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--simulate", "--target-ms", "0"),
        ("--simulate", "--token-ms", "-1"),
        ("--simulate", "--rtt-ms", "nan"),
        ("--simulate", "--rtt-ms", "inf"),
        ("--simulate", "--accept", "nan"),
        ("--ring", "2", "--max-tokens", "1"),
    ],
)
def test_numbers_that_make_no_sense(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments]) == ExitCode.USAGE
    assert arguments[-2] in capsys.readouterr().err


@pytest.mark.parametrize("mode", [("--simulate",), ("--ring", "2")])
def test_a_picture_that_cannot_be_written_is_told_before_anything_is_measured(
    mode: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *mode, "--plot", str(tmp_path / "no folder" / "x.svg")]) == ExitCode.USAGE
    assert "cannot be written" in capsys.readouterr().err
