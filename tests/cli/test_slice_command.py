"""`twd slice`: layers as a file of their own, and what is kept here."""

import json
from pathlib import Path

import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.engine.slices.recipes import recipe
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.process.home import StateFolder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    return str(write_sliceable("llama", tmp_path))


def test_a_slice_goes_to_the_cache_and_is_listed(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slice"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("0 slices, 0 MiB in ")
    assert run(["slice", model, "2-5", "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["first"], told["end"], told["layers"], told["head"]) == (2, 5, 8, False)
    assert Path(told["path"]).is_file()
    assert told["disk_bytes"] > 0
    assert run(["slice", "--json"]) == ExitCode.OK
    assert [one["path"] for one in json.loads(capsys.readouterr().out)] == [told["path"]]
    assert run(["slice"]) == ExitCode.OK
    assert Path(told["path"]).name in capsys.readouterr().out


def test_the_weights_of_workers_are_listed_beside(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = StateFolder(tmp_path / "home")
    worker = home.weights / "desk.rpc.pool.big"
    worker.mkdir(parents=True)
    (worker / f"{7:016x}").write_bytes(bytes(3 * 2**20))
    assert run(["slice"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert worker.name in told
    assert f"weights of 1 worker, 3 MiB in {home.weights}" in told
    assert run(["slice", "--json"]) == ExitCode.OK
    assert [one["path"] for one in json.loads(capsys.readouterr().out)] == [str(worker)]


def test_slices_of_machines_that_were_played_are_listed(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played = tmp_path / "home" / "nodes" / "node-2" / "cache" / "slices"
    played.mkdir(parents=True)
    assert run(["slice", model, "0-2", "--json", "-o", str(played / "part.gguf")]) == ExitCode.OK
    capsys.readouterr()
    assert run(["slice"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert "part.gguf" in told
    assert f"1 slice, 0 MiB in {played}" in told


def test_a_slice_goes_where_it_is_wanted(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slice", model, "8-8", "--head", "-o", str(tmp_path / "head.gguf")]) == ExitCode.OK
    assert "no layers of 8, with the output head" in capsys.readouterr().out
    assert (tmp_path / "head.gguf").is_file()
    assert run(["slice"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("0 slices")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ("", "FILE and its layers"),
        ("0..4", "no range"),
        ("5-5", "are none"),
        ("7-3", "are none"),
        ("0-9", "out of range"),
    ],
)
def test_ranges_that_are_none_are_refused(
    model: str, layers: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slice", model, layers]) == ExitCode.USAGE
    assert reason in capsys.readouterr().err


def test_models_that_cannot_be_cut_are_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slice", str(recipe("minicpm3").write(tmp_path / "tiny.gguf")), "0-1"]) == ExitCode.USAGE
    assert "`pool.engine: rpc`" in capsys.readouterr().err
    assert run(["slice", str(tmp_path / "none.gguf"), "0-1"]) == ExitCode.NOT_FOUND
    assert "there is no file" in capsys.readouterr().err
    Path(model).write_bytes(Path(model).read_bytes()[:-64])
    assert run(["slice", model, "0-1"]) == ExitCode.CANNOT_START
    assert "cut short" in capsys.readouterr().err
