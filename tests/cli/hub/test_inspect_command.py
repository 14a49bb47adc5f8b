"""`twd inspect`, of files and of models on a hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.hubs import Hub, Repository, hub_in_thread, sha256
from tests.moe.mixtures import write_random
from twd.cli.app import run
from twd.cli.hub.holders import on_machines
from twd.engine.demo_model import packaged_model
from twd.gguf_tools.model_file import read_model
from twd.kit.exit_codes import ExitCode
from twd.models.remote_file import RemoteFile
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import NodeFacts


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def one_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """To make it takes a second: it hashes a real model."""
    first = write_random(tmp_path_factory.mktemp("hub") / "m-Q8_0.gguf", shards=2)
    shards = {f"Q8_0/{one.name}": one.read_bytes() for one in sorted(first.parent.glob("m-Q8_0-*.gguf"))}
    real = packaged_model().read_bytes()
    files = {"m-Q4_1.gguf": real, "cut.gguf": real[:100_000], "zip.gguf": b"PK" * 99, **shards}
    made = Hub({"org/Model-GGUF": Repository(files)})
    with hub_in_thread(made):
        yield made


@pytest.fixture
def hub(one_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub of the settings; nothing was sent yet."""
    one_hub.sent_bytes = 0
    monkeypatch.setenv("HF_ENDPOINT", one_hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return one_hub


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], code: ExitCode = ExitCode.OK) -> dict[str, object]:
    assert run(["inspect", *arguments, "--json"]) == code
    read: dict[str, object] = json.loads(capsys.readouterr().out)
    return read


def test_a_model_on_a_hub_is_told_by_its_header_alone(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    there = told(["org/Model-GGUF:Q4_1"], capsys)
    assert hub.sent_bytes == there["fetched_bytes"]
    assert hub.sent_bytes < 8 << 20
    here = told([str(packaged_model())], capsys)
    same = ("name", "architecture", "parameters", "size_bytes", "layers", "heads", "tensors", "chat_template", "cut")
    assert {key: there[key] for key in same} == {key: here[key] for key in same}
    assert "path" not in there


def test_a_copy_of_another_program_is_read_instead(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = tmp_path / f".ollama/models/blobs/sha256-{sha256(packaged_model().read_bytes())}"
    blob.parent.mkdir(parents=True)
    blob.symlink_to(packaged_model())
    there = told(["org/Model-GGUF:Q4_1"], capsys)
    assert (there["fetched_bytes"], hub.sent_bytes) == (0, 0)
    assert there["who_has_it"] == [{"where": "Ollama's store", "path": str(blob)}]


def test_shards_on_a_hub_are_one_model(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    there = told(["org/Model-GGUF:Q8_0"], capsys)
    assert there["files"] == len(hub.repositories["org/Model-GGUF"].files) - 3
    assert there["experts"]


def test_for_people(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "org/Model-GGUF:Q4_1", "--plan"]) == ExitCode.OK
    said = capsys.readouterr().out
    for line in (
        "135 million parameters, Q4_1",
        "layers: 30",
        "experts: none",
        "cuts: between any two layers",
        "MiB were",
    ):
        assert line in said
    assert "blk.*.ffn_down.weight" in said
    assert "30 layers, " in said


def test_with_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    plan = told([str(packaged_model()), "--plan"], capsys)["plan"]
    assert isinstance(plan, dict)
    assert plan["slices"]


def test_the_experts_of_a_mixture_are_placed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_random(tmp_path / "mixture.gguf"))
    placed = told([path, "--moe-strategy", "balanced"], capsys)["moe_plan"]
    assert isinstance(placed, dict)
    assert placed["strategy"] == "balanced"
    assert run(["inspect", path, "--moe-strategy", "balanced"]) == ExitCode.OK
    assert "experts, 2 used; balanced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["none.gguf"], ExitCode.NOT_FOUND, "no file 'none.gguf' here"),
        (["qwen3:8b"], ExitCode.NOT_FOUND, "qwen3:8b-q4_k_m"),
        (["."], ExitCode.USAGE, "folder"),
        (["org/Model-GGUF/cut.gguf"], ExitCode.CANNOT_START, "broken there"),
        (["org/Model-GGUF/zip.gguf"], ExitCode.NOT_FOUND, "no GGUF file"),
        (["org/Model-GGUF:Q8_0", "--moe-strategy", "profile-guided"], ExitCode.USAGE, "twd pull"),
        (["MODEL", "--moe-strategy", "balanced"], ExitCode.USAGE, "dense"),
        (["MODEL", "--hot-profile", "none.json"], ExitCode.USAGE, "dense"),
    ],
)
def test_what_cannot_be_told_says_why(
    hub: Hub, arguments: list[str], code: ExitCode, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(packaged_model()) if one == "MODEL" else one for one in arguments]
    assert run(["inspect", *named]) == code
    assert cause in capsys.readouterr().err


def test_who_has_it() -> None:
    model = read_model(packaged_model())
    facts = NodeFacts(node=NodeId("far"), instance=InstanceId("a"), machine="far", pid=1, models=[model])
    (found,) = on_machines([facts], packaged_model(), ())
    assert (found.where, found.path, found.same) == ("far", model.path, "hash")
    remote = RemoteFile(packaged_model().name, model.size_bytes, "0" * 64, "", "")
    (alike,) = on_machines([facts], Path("none"), (remote,))
    assert alike.same == "name and size"
    assert on_machines([facts], Path("none"), (RemoteFile("other.gguf", 1, "", "", ""),)) == []
