"""What the doctor says of heads."""

from pathlib import Path

import msgspec
import pytest

from tests.engine.block_reference import dspark
from tests.engine.slices.recipes import Recipe, recipe
from twd.cli.doctor.findings import Finding, Severity
from twd.cli.doctor.heads import check_heads
from twd.settings.model import Settings
from twd.supervisor.model_weights import read_weights


def found(path: Path, **more: object) -> list[Finding]:
    settings = msgspec.convert({"models": {"m": {"path": str(path)}}, **more}, Settings)
    return check_heads(settings, read_weights(settings))


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({}, "of what a token reads"),
        ({"mode": "combined"}, "; it guesses on the last stage"),
        ({"mode": "combined", "pool": {"engine": "rpc"}}, "; it guesses if the output head stays on the machine"),
        ({"speculation": {"own_head": False}}, "; `speculation.own_head` is off"),
    ],
)
def test_a_head_in_the_models_file(more: dict[str, object], place: str, tmp_path: Path) -> None:
    (finding,) = found(recipe("qwen35 with a head").write(tmp_path / "model.gguf"), **more)
    assert finding.verdict is Severity.PASS
    assert place in finding.detail


@pytest.mark.parametrize("one", [recipe("eagle3"), dspark()], ids=["eagle3", "dspark"])
def test_a_named_one(one: Recipe, tmp_path: Path) -> None:
    path, head = recipe("llama").write(tmp_path / "model.gguf"), one.write(tmp_path / "head.gguf")
    named = {"drafters": [{"head": str(head)}]}
    (finding,) = found(path, **named)
    assert (finding.verdict, finding.detail) == (Severity.PASS, "guesses for m")
    (pooled,) = found(path, mode="combined", **named)
    assert pooled.verdict is Severity.WARN
    assert "on a ring they lie on other machines than the output" in pooled.detail
    assert pooled.mend == "leave it out, or serve the model on one machine"
