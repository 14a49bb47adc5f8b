"""`twd engine`: what is here, and what would be better."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from twd.cli.app import app
from twd.cli.doctor import probes
from twd.cli.doctor.programs import EngineBuild
from twd.cli.engine import command
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode


def build(**more: object) -> EngineBuild:
    facts: dict[str, Any] = {"version": "1.0", "devices": ["CPU"], "rpc": True, "kernels": True, **more}
    return EngineBuild(**facts)


@pytest.mark.parametrize(
    ("found", "tools", "advised"),
    [
        (build(), set(), []),
        (build(), {"nvidia-smi"}, ["twd engine install --backend cuda"]),
        (build(accelerated=True), {"nvidia-smi"}, []),
        (build(version="0.9"), set(), ["twd engine install"]),
        (build(kernels=False, rpc=False), set(), ["twd engine install"]),
        (build(problem="Illegal instruction"), {"nvidia-smi"}, ["twd engine install"]),
    ],
)
def test_advice_is_a_command(
    monkeypatch: pytest.MonkeyPatch, found: EngineBuild, tools: set[str], advised: list[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name in tools else None)
    assert [line.partition("  #")[0] for line in command.advice(found, "1.0")] == advised


def test_what_is_here_in_words_and_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "llama_build", lambda: build(problem="it ended with -4"))
    shown = CliRunner().invoke(app, ["engine"], standalone_mode=False)
    assert shown.return_value == ExitCode.UNHEALTHY
    assert "does not work: it ended with -4" in shown.output
    monkeypatch.setattr(probes, "llama_build", build)
    facts = json.loads(CliRunner().invoke(app, ["engine", "--json"], standalone_mode=False).output)
    assert facts["rpc"]
    assert facts["kernels"]
    assert facts["devices"] == ["CPU"]


def test_what_cannot_be_built_here_is_refused_before_anything_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "g++" if name == "g++" else None)
    error = CliRunner().invoke(app, ["engine", "install", "--backend", "cuda"], standalone_mode=False).exception
    assert isinstance(error, CommandError)
    assert "CUDA toolkit" in str(error)
