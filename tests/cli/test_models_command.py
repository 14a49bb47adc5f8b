"""start, stop, swap, load, reclaim and tune at the command line: what they refuse, and with which exit code."""

import os
from pathlib import Path

import pytest

from tests.cli.running import Installed
from twd.kit.exit_codes import ExitCode

pytestmark = pytest.mark.nats


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("swap", "big"), ExitCode.NOTHING_RUNS, "twd up"),
        (("swap",), ExitCode.USAGE, "MODEL"),
        (("stop",), ExitCode.OK, "nothing runs"),
        (("stop", "--json"), ExitCode.OK, '"done": true'),
        (("reclaim",), ExitCode.NOTHING_RUNS, "twd up"),
        (("reclaim", "--file", "/no/such.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("load", "nothing"), ExitCode.NOT_FOUND, "configured are none"),
        (("load", "/no/such.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("tune", "nothing"), ExitCode.NOT_FOUND, "configured are none"),
        (("up", "--model", "nothing"), ExitCode.USAGE, "no model 'nothing'"),
        (("swap", ""), ExitCode.USAGE, "1 to 4096 characters"),
        (("swap", "x/" * 2500), ExitCode.NOT_FOUND, "cannot be looked for"),
        (("swap", "x" * 5000, "--node", "a"), ExitCode.USAGE, "1 to 4096 characters"),
        (("swap", os.fsdecode(b"caf\xe9.gguf")), ExitCode.USAGE, "is no UTF-8"),
        (("swap", "~nobody-of-this-name/m.gguf"), ExitCode.NOT_FOUND, "home directory"),
    ],
)
def test_without_anything_that_runs(
    installed: Installed, arguments: tuple[str, ...], code: ExitCode, words: str
) -> None:
    done = installed.twd(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_forgotten(installed: Installed, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(bytes(1 << 20))
    done = installed.twd("reclaim", "--file", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert '"cached_before"' in done.stdout


def test_tuning_without_a_model(installed: Installed) -> None:
    done = installed.twd("tune")
    assert done.returncode == 0, done.stderr
    assert "threads" in done.stdout
    assert '"proposals"' in installed.twd("tune", "--json").stdout


@pytest.mark.slow
def test_a_house_without_models(installed: Installed) -> None:
    (installed.home.parent / "twd.yaml").write_text("models: {gone: {path: gone.gguf}}\nagent: {port: 0}\n")
    installed.up("--no-models")
    for arguments, code, words in (
        (("swap", "nothing"), ExitCode.NOT_FOUND, "configured are gone"),
        (("start",), ExitCode.NOT_FOUND, "no file"),
        (("start", "-m", "/" + "folder/" * 50 + "m.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("start", "--node", "elsewhere"), ExitCode.NOTHING_RUNS, "no supervisor answers on machine 'elsewhere'"),
        (("stop", "gone"), ExitCode.NOT_FOUND, "served are: none"),
        (("stop",), ExitCode.OK, "no model is served"),
        (("reclaim",), ExitCode.NOT_FOUND, "served: none"),
    ):
        done = installed.twd(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert words in done.stdout + done.stderr, (arguments, done.stdout, done.stderr)
    assert installed.twd("down").returncode == 0
