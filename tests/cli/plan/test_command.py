"""`twd plan`: what a model would take, on this machine alone where nothing runs."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from tests.engine.slices.recipes import recipe
from tests.engine.tiny_models import write_llama
from twd.bus.base import LeaseEntry
from twd.cli.app import run
from twd.cli.common.context import CliContext
from twd.cli.plan import command
from twd.cli.plan.command import _decide, _standing, _wanted_model, _ways
from twd.gguf_tools.model_file import read_model
from twd.kit.exit_codes import ExitCode
from twd.settings.model import ModelConfig, Settings
from twd.settings.types import Mode
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.node import CpuFacts, MemoryFacts, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice, placement_key


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    return str(write_llama(tmp_path / "tiny.gguf"))


def test_a_model_that_fits_is_shown_with_its_layers(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", model, "--ctx", "256", "--sessions", "1", "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    covered = sorted(layer for piece in told["slices"] for layer in range(piece.get("first", 0), piece["end"]))
    assert covered == [0, 1]
    assert told["plain_tok_s"] > 0
    assert run(["plan", model, "--ctx", "256", "--sessions", "1"]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "2 layers, 1 session of 256 tokens" in shown
    assert "with the output head" in shown
    assert "one token: " in shown
    assert "the bottleneck is " in shown
    assert "one more machine like " in shown


def test_one_that_does_not_says_what_would_help(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", model, "--ctx", "2000000000", "--sessions", "64"]) == ExitCode.UNHEALTHY
    shown = capsys.readouterr().out
    assert "of memory are missing" in shown
    assert "help: set ctx_size to" in shown


def test_one_that_a_ring_cannot_cut_is_told_with_a_way_out(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", str(recipe("minicpm3").write(tmp_path / "tiny.gguf"))]) == ExitCode.UNHEALTHY
    told = capsys.readouterr()
    assert "note: tiny.gguf cannot be sliced" in told.out
    assert "`pool.engine: rpc` pools it" in told.out
    assert not told.err


@pytest.mark.parametrize("name", ["nothing", "/no/such.gguf"])
def test_what_is_no_model_is_told_in_one_line(model: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", name]) == ExitCode.NOT_FOUND
    told = capsys.readouterr().err
    assert told.startswith("twd: there is no ")
    assert told.count("\n") == 1


def test_a_model_that_only_the_running_system_knows_is_planned(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = CliContext().home
    home.prepare()
    monkeypatch.setattr(CliContext, "instance", lambda _: None)
    lock = home.acquire()
    home.settings_file.write_bytes(msgspec.json.encode(Settings(models={"small": ModelConfig(path=model)})))
    for named in (["small"], []):
        assert run(["plan", *named, "--ctx", "256"]) == ExitCode.OK
        assert "small: 2 layers" in capsys.readouterr().out
    os.close(lock)


@pytest.mark.parametrize(("running", "shown"), [("combined", True), ("speculate", False)])
def test_of_a_model_that_a_command_put_into_a_pool_the_decision_is_shown(
    model: str, running: Mode, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models={"tiny": ModelConfig(path=model)})
    monkeypatch.setattr(command, "running_settings", lambda _: msgspec.structs.replace(settings, mode=running))
    monkeypatch.setattr(CliContext, "settings", settings)
    decision = PlacementDecided(model=ModelId("tiny"), coordinator=InstanceId("c"), slices=[], home=NodeId("desk"))
    entries = [LeaseEntry(placement_key(decision.place), msgspec.json.encode(decision), 1, 0.0)]
    assert (_standing(CliContext(), "tiny", entries) == decision) is shown
    monkeypatch.setattr(CliContext, "settings", msgspec.structs.replace(settings, mode="combined"))
    assert _standing(CliContext(), "tiny", entries) is None


@pytest.mark.parametrize("option", ["--ctx", "--sessions"])
def test_less_than_nothing_is_refused(model: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", model, option, "-3"]) == ExitCode.USAGE
    assert option in capsys.readouterr().err


def test_ways_say_what_was_measured_and_what_was_assumed() -> None:
    slices = [
        Slice(node=NodeId(name), device="CPU", first=n, end=n + 1) for n, name in enumerate(["desk", "attic", "den"])
    ]
    decision = PlacementDecided(
        model=ModelId("m"), coordinator=InstanceId("c"), slices=slices, home=NodeId("desk"), links={"attic": 2.5},
        bandwidths={"attic": 112 * 1024**2},
    )  # fmt: skip
    assert list(_ways(decision)) == [
        "way: desk to attic: 2.5 ms, 117 MB/s",
        "way: desk to den: 1 ms (assumed), 100 MB/s (assumed)",
    ]


def test_what_a_serving_model_holds_may_be_planned_again(model: str) -> None:
    ctx, home = CliContext(), NodeId("desk")
    machine = NodeFacts(
        node=home, instance=InstanceId("agent.desk.x"), machine="m", pid=1, cpu=CpuFacts(cores=4, threads=4),
        memory=MemoryFacts(total=8 << 30, available=1 << 20), models=[read_model(Path(model))],
        processes=[ProcessFacts(process="stage.pool.tiny.0-2.head", kind=ProcessKind.STAGE, state="ready")],
    )  # fmt: skip
    held = Slice(
        node=home, device="CPU", first=0, end=2, weight_bytes=2 << 30, head=True, process="stage.pool.tiny.0-2.head"
    )
    standing = PlacementDecided(model=ModelId("tiny"), coordinator=InstanceId("c"), slices=[held], home=home)
    wanted = _wanted_model(ctx, model, 256, 1)
    assert _decide(ctx, wanted, [machine], [])[0].missing_bytes
    entries = [LeaseEntry(placement_key(standing.place), msgspec.json.encode(standing), 1, 0.0)]
    assert [piece.node for piece in _decide(ctx, wanted, [machine], entries)[0].slices] == [home]
