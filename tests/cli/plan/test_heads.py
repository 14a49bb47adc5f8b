"""`twd plan` and `twd inspect` tell of heads: what they cost, and why one does not guess."""

from pathlib import Path

import pytest

from tests.engine.block_reference import dflash_2, dspark
from tests.engine.shared_reference import assistant
from tests.engine.slices.recipes import Recipe, recipe
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode

SIZES = ["--ctx", "256", "--sessions", "1"]


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    return recipe("eagle3").write(tmp_path / "head.gguf")


def planned(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["plan", *words, *SIZES]) == ExitCode.OK
    return capsys.readouterr().out


def test_a_head_in_the_models_file(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(recipe("qwen35 with a head").write(tmp_path / "model.gguf"))
    assert "head: 1 layer of its own, 0.1" in planned(model, capsys=capsys)
    assert run(["inspect", model]) == ExitCode.OK
    assert "of cache for a token; a guess reads " in capsys.readouterr().out


def test_one_that_fits(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(recipe("llama").write(tmp_path / "model.gguf"))
    assert "head: head.gguf guesses; it takes " in planned(model, "--head", str(head), capsys=capsys)
    assert "head:" not in planned(model, capsys=capsys)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen2", "llama.cpp gives out no layer inputs of qwen2 models"),
        ("gone", "gone.gguf"),
        ("cut", "cut.gguf: the file is cut short"),
        ("target", "target.gguf is a file of architecture llama, not of a trained head"),
    ],
)
def test_one_that_does_not(
    name: str, reason: str, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = recipe("qwen2" if name == "qwen2" else "llama").write(tmp_path / "model.gguf")
    (tmp_path / "cut.gguf").write_bytes(head.read_bytes()[:-4096])
    recipe("llama").write(tmp_path / "target.gguf")
    wrong = head if name == "qwen2" else tmp_path / f"{name}.gguf"
    told = planned(str(model), "--head", str(wrong), capsys=capsys)
    assert reason in told
    assert "; it is served without this head" in told


def test_on_a_ring_it_is_told_why(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = recipe("llama").write(tmp_path / "model.gguf")
    settings = tmp_path / "twd.yaml"
    settings.write_text(f"mode: combined\nmodels: {{m: {{path: {model}}}}}\ndrafters: [{{head: {head}}}]\n")
    assert run(["-c", str(settings), "plan", *SIZES]) == ExitCode.OK
    told = capsys.readouterr().out
    assert "head.gguf reads the inputs of layers 1, 4 and 7; on a ring they lie on other machines" in told
    assert "up to 4 times as large; it is served without this head" in told


def test_a_heads_own_file(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(head)]) == ExitCode.OK
    assert "head: a trained head (EAGLE-3) for a model of width 64: it reads the inputs of layers 1, 4, 7" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (recipe("dflash"), "DFlash, up to 5 tokens at once"),
        (dspark(), "DSpark, up to 6 tokens at once"),
        (dflash_2(), "DFlash 2, up to 5 tokens at once"),
    ],
    ids=["dflash", "dspark", "dflash 2"],
)
def test_the_file_of_a_head_that_guesses_blocks(
    one: Recipe, kind: str, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one.write(tmp_path / "block.gguf")
    assert run(["inspect", str(path)]) == ExitCode.OK
    assert f"head: a trained head ({kind}) for a model of width 64: it reads" in capsys.readouterr().out
    model = str(recipe("llama").write(tmp_path / "model.gguf"))
    assert "head: block.gguf guesses; it takes " in planned(model, "--head", str(path), capsys=capsys)


def test_the_file_of_an_assistant(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = assistant().write(tmp_path / "shared.gguf"), recipe("gemma4").write(tmp_path / "model.gguf")
    assert run(["inspect", str(path)]) == ExitCode.OK
    words = "head: a trained head (assistant) for a Gemma 4 model of width 64: it reads the KV cells of its last layers"
    assert words in capsys.readouterr().out
    assert "head: shared.gguf guesses; it takes " in planned(str(model), "--head", str(path), capsys=capsys)
    settings = tmp_path / "twd.yaml"
    settings.write_text(f"mode: combined\nmodels: {{m: {{path: {model}}}}}\ndrafters: [{{head: {path}}}]\n")
    assert run(["-c", str(settings), "plan", *SIZES]) == ExitCode.OK
    assert "shared.gguf reads the KV cells of the model's last layers, so it guesses on one machine only" in (
        capsys.readouterr().out
    )
