"""The commands of `twd moe`, as a user gives them."""

import json
import os
from pathlib import Path

import pytest

from tests.moe.mixtures import write_random
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def moe(*arguments: object) -> int:
    return run(["moe", *map(str, arguments)])


def test_there_and_back(tmp_path: Path, capsys: Capture) -> None:
    fused = write_random(tmp_path / "m.gguf")
    assert moe("defuse", fused, tmp_path / "single.gguf") == ExitCode.OK
    assert "6 were split" in capsys.readouterr().out
    assert moe("fuse", tmp_path / "single.gguf", tmp_path / "back.gguf", "--json") == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["experts"]) == (24, 4)
    assert (tmp_path / "back.gguf").read_bytes() == fused.read_bytes()
    assert moe("fuse", tmp_path / "single.gguf", tmp_path / "back.gguf") == ExitCode.USAGE
    assert "--force replaces it" in capsys.readouterr().err
    assert moe("fuse", tmp_path / "single.gguf", tmp_path / "back.gguf", "--force") == ExitCode.OK


def test_a_dense_file_is_refused_by_every_command(tiny_path: Path, tmp_path: Path, capsys: Capture) -> None:
    for arguments in (
        ("summary", tiny_path),
        ("plan", tiny_path),
        ("defuse", tiny_path, tmp_path / "x.gguf"),
        ("fuse", tiny_path, tmp_path / "x.gguf"),
        ("profile", "-m", tiny_path, "--duration", 0),
    ):
        assert moe(*arguments) == ExitCode.USAGE, arguments
        assert "is a dense model: it has no experts" in capsys.readouterr().err


def test_what_is_no_file_is_told_so(tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("pipe", "is a pipe or a device"), (".", "is a folder")):
        for command in ("summary", "plan"):
            assert moe(command, name) == ExitCode.USAGE
            assert what in capsys.readouterr().err


def test_the_summary_of_a_model(tmp_path: Path, capsys: Capture) -> None:
    path = write_random(tmp_path / "m.gguf", layout="indexed", biases=True)
    assert moe("summary", path) == ExitCode.OK
    told = capsys.readouterr().out
    assert "4 experts, 2 used; indexed experts, biases" in told
    assert "twd moe fuse IN OUT" in told
    assert moe("summary", path, "--json") == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in document["layers"]] == [0, 1]
    assert document["least_memory_bytes"] < document["size_bytes"]


def test_a_profile_from_a_log_and_its_summary(tmp_path: Path, capsys: Capture) -> None:
    model = write_random(tmp_path / "m.gguf")
    (tmp_path / "a.log").write_text("moe: layer=0 chosen=[1,2]\nmoe: layer=0 chosen=[1,3]\nmoe: layer=1 chosen=[0,1]\n")
    for _ in range(2):
        assert moe("profile", "-m", model, "--from-log", tmp_path / "a.log") == ExitCode.OK
    assert "6 choices counted, 12 with those before" in capsys.readouterr().out
    (kept,) = (tmp_path / "home" / "moe").iterdir()
    assert moe("summary", kept, "--json", "--top", 1) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert told["top"][0] | {"hits": 4} == {
        "layer": 0,
        "expert": 1,
        "hits": 4,
        "share": pytest.approx(4 / 12, rel=1e-3),
    }
    assert told["held"][-1]["busiest"] == pytest.approx(1)
    assert moe("summary", kept) == ExitCode.OK
    assert "skew: the busiest tenth of a layer gets" in capsys.readouterr().out
    assert moe("plan", model, "--strategy", "profile-guided") == ExitCode.OK


def test_a_profile_of_another_model_is_refused(tmp_path: Path, capsys: Capture) -> None:
    one, other = write_random(tmp_path / "a.gguf"), write_random(tmp_path / "b.gguf", layers=3)
    (tmp_path / "t.csv").write_text("0,1,5\n")
    assert moe("profile", "-m", one, "--from-log", tmp_path / "t.csv", "-o", tmp_path / "p.json") == ExitCode.OK
    assert moe("plan", other, "--hot-profile", tmp_path / "p.json") == ExitCode.USAGE
    assert "not of this file" in capsys.readouterr().err
    (tmp_path / "t.csv").write_text("9,1,5\n")
    assert moe("profile", "-m", one, "--from-log", tmp_path / "t.csv") == ExitCode.USAGE
    assert "a profile of another model" in capsys.readouterr().err


def test_nothing_to_count_and_nobody_to_ask(tmp_path: Path, capsys: Capture) -> None:
    assert moe("profile") == ExitCode.USAGE
    assert moe("profile", "--follow-peer", "127.0.0.1:1") == ExitCode.USAGE
    assert "--rpc-port is needed" in capsys.readouterr().err
    assert moe("profile", "--follow-peer", "127.0.0.1:1", "--rpc-port", 5) == ExitCode.NOTHING_RUNS
    assert "no agent answers" in capsys.readouterr().err
    assert moe("plan", write_random(tmp_path / "m.gguf"), "--strategy", "profile-guided") == ExitCode.NOT_FOUND
    assert moe("plan", tmp_path / "none.gguf") == ExitCode.CANNOT_START


def test_a_plan_of_this_machine(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_random(tmp_path / "m.gguf")
    assert moe("plan", path, "--json", "--refresh") == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert sum(share["hits"] for share in told["shares"]) == pytest.approx(1)
    assert told["tok_s"] > 0
    assert moe("plan", path, "--emit-ot") == ExitCode.OK
    assert capsys.readouterr().out.startswith("-ngl ")
    monkeypatch.setattr("twd.engine.host_memory.limits.available_bytes", lambda: 1000)
    monkeypatch.setattr("twd.engine.library.devices", list)
    assert moe("plan", path) == ExitCode.UNHEALTHY
    assert "of that fit nowhere (free: CPU 0 MiB)" in capsys.readouterr().err
