"""`twd bench`: numbers that cannot be measured or played with are refused."""

import pytest

from twd.cli.app import run
from twd.kit.exit_codes import ExitCode


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
