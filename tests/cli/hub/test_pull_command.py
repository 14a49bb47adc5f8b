"""`twd pull`, as somebody types it, from a hub on loopback."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.killed_pull import pulled_after_a_kill
from tests.models.hubs import Hub, Repository, hub_in_thread, sha256
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.pieces.manifest import load_manifest
from twd.pieces.names import bitmap_of, manifest_of, part_of
from twd.pieces.tree import UNIT

TWD = (sys.executable, "-m", "twd")


def weights(mib: int) -> bytes:
    """What a hub has: only its first bytes are those of a GGUF file."""
    return b"GGUF" + os.urandom(mib * UNIT + 77)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shards = {f"Q8_0/m-Q8_0-0000{number}-of-00002.gguf": weights(1) for number in (1, 2)}
    made = Hub({"org/Model-GGUF": Repository({"m-Q4_K_M.gguf": weights(5), "page.gguf": b"<html>", **shards})})
    made.repositories["org/gated"] = Repository({"m-Q4_K_M.gguf": weights(1)}, gated=True)
    made.registry = {"library/small:1b": weights(1)}
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with hub_in_thread(made) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        yield made


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    last: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def test_a_model_comes_into_the_folder_of_models(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", "org/Model-GGUF:Q4_K_M"]) == ExitCode.OK
    target = tmp_path / "home/models/m-Q4_K_M.gguf"
    data = hub.repositories["org/Model-GGUF"].files["m-Q4_K_M.gguf"]
    assert target.read_bytes() == data
    last = told(capsys)
    assert (last["state"], last["done_bytes"], last["path"]) == ("finished", len(data), str(target))
    assert hub.sent_bytes == len(data) + 4
    assert load_manifest(manifest_of(target)).sha256 == sha256(data)
    assert not part_of(target).exists()
    assert not bitmap_of(target).exists()
    assert run(["pull", "org/Model-GGUF/m-Q4_K_M.gguf"]) == ExitCode.OK
    assert "here already" in capsys.readouterr().err
    assert hub.sent_bytes == len(data) + 4


def test_all_shards_come_and_know_each_other(hub: Hub, tmp_path: Path) -> None:
    assert run(["pull", "org/Model-GGUF:q8_0", "--dir", str(tmp_path)]) == ExitCode.OK
    names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    for name in names:
        assert (tmp_path / name).read_bytes() == hub.repositories["org/Model-GGUF"].files[f"Q8_0/{name}"]
        assert [one.filename for one in load_manifest(manifest_of(tmp_path / name)).shards] == names


def test_a_model_of_the_registry_and_one_by_its_address(hub: Hub, tmp_path: Path) -> None:
    host = hub.url.removeprefix("http://")
    assert run(["pull", f"ollama://{host}/small:1b", "--dir", "."]) == ExitCode.OK
    assert Path("small-1b.gguf").read_bytes() == hub.registry["library/small:1b"]
    assert run(["pull", f"{hub.url}/org/Model-GGUF/resolve/main/m-Q4_K_M.gguf", "--dir", "."]) == ExitCode.OK
    assert Path("m-Q4_K_M.gguf").stat().st_size == 5 * UNIT + 81


def test_a_pull_that_was_killed_goes_on(hub: Hub, tmp_path: Path) -> None:
    data = weights(12)
    hub.repositories["org/Model-GGUF"].files["m-Q4_K_M.gguf"] = data
    pull = [*TWD, "pull", "org/Model-GGUF:Q4_K_M", "--dir", str(tmp_path), "--json"]
    last = pulled_after_a_kill(pull)
    assert (tmp_path / "m-Q4_K_M.gguf").read_bytes() == data
    assert last["fetched_bytes"] <= len(data) - 2 * UNIT


def test_wrong_bytes_get_no_name(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.spoil = True
    assert run(["pull", "org/Model-GGUF:Q4_K_M", "--dir", "."]) == ExitCode.DIFFERENT
    said = capsys.readouterr().err
    assert "was promised" in said
    assert not (tmp_path / "m-Q4_K_M.gguf").exists()
    hub.spoil = False
    assert run(["pull", "org/Model-GGUF:Q4_K_M", "--dir", "."]) == ExitCode.OK


def test_an_address_expires_while_the_file_comes(hub: Hub, tmp_path: Path) -> None:
    hub.lifetime = 4
    assert run(["pull", "org/Model-GGUF:Q4_K_M", "--dir", "."]) == ExitCode.OK
    assert hub.signed >= 2


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        ([], ExitCode.USAGE, "--list"),
        (["qwen3"], ExitCode.USAGE, "qwen3:8b-q4_k_m"),
        (["org/Model-GGUF", "--revision", ".."], ExitCode.USAGE, "revision"),
        (["org/Model-GGUF:Q4_K_M", "--dir", "nowhere"], ExitCode.NOT_FOUND, "existing folder"),
        (["org/Model-GGUF:Q4_K_M", "--dir", "a-file"], ExitCode.NOT_FOUND, "is a file"),
        (["org/Model-GGUF:Q4_K_M", "--dir", "taken"], ExitCode.CONFIG, "is a folder"),
        (["org/Model-GGUF:Q4_K_M", "--dir", "other"], ExitCode.CONFIG, "another file"),
        (["org/Model-GGUF/page.gguf", "--dir", "."], ExitCode.NOT_FOUND, "web page"),
        (["org/Model-GGUF:Q5_0", "--dir", "."], ExitCode.NOT_FOUND, "there is: org/Model-GGUF/Q8_0"),
        (["org/Modell", "--dir", "."], ExitCode.NOT_FOUND, "near names"),
        (["org/gated:Q4_K_M", "--dir", "."], ExitCode.CONFIG, "accept its terms"),
        (["ollama://127.0.0.1:9/x/y", "--dir", "."], ExitCode.NOTHING_RUNS, "does not answer"),
        (["--list", "ollama://x"], ExitCode.USAGE, "Hugging Face"),
    ],
)
def test_what_cannot_be_pulled_says_why(
    hub: Hub,
    tmp_path: Path,
    arguments: list[str],
    code: ExitCode,
    cause: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twd.models.client.TRIES", 1)
    (tmp_path / "a-file").touch()
    (tmp_path / "taken/m-Q4_K_M.gguf").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/m-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert run(["pull", *arguments]) == code
    assert cause in capsys.readouterr().err


def test_a_hub_that_refuses_in_the_middle_ends_the_pull(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = 0

    def private_now(request: object) -> None:
        nonlocal seen
        seen += "/resolve/" in str(getattr(request, "path", ""))
        hub.repositories["org/Model-GGUF"].private = seen > 1

    hub.answer_instead, hub.lifetime = private_now, 2
    assert run(["pull", "org/Model-GGUF:Q4_K_M", "--dir", "."]) == ExitCode.NOTHING_RUNS
    said = capsys.readouterr().err
    assert "answered 401" in said
    assert "goes on from there" in said
    assert part_of(tmp_path / "m-Q4_K_M.gguf").exists()


def test_a_full_disk_is_told_before_the_first_byte(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: os.terminal_size((1, 1)) and type("Usage", (), {"free": 9}))
    assert run(["pull", "org/Model-GGUF:Q8_0", "--dir", "."]) == ExitCode.CANNOT_START
    assert "2 files need 2 MiB more" in capsys.readouterr().err
    assert hub.sent_bytes == 0


def test_offline_and_with_a_bad_token_no_hub_is_asked(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = hub.url.removeprefix("http://")
    for name, value, spec, code in (
        ("HF_HUB_OFFLINE", "1", "org/Model-GGUF:Q4_K_M", ExitCode.NOT_FOUND),
        ("HF_HUB_OFFLINE", "1", f"ollama://{host}/small:1b", ExitCode.NOTHING_RUNS),
        ("HF_TOKEN", "tökén", "org/Model-GGUF:Q4_K_M", ExitCode.CONFIG),
    ):
        monkeypatch.setenv(name, value)
        assert run(["pull", spec, "--dir", "."]) == code
        assert name in capsys.readouterr().err
    assert hub.asked == []


def test_the_catalogue_and_a_repository(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", "--list"]) == ExitCode.OK
    assert "qwen3:1.7b-q8_0" in capsys.readouterr().out
    assert run(["pull", "--list", "org/Model-GGUF", "--json"]) == ExitCode.OK
    listed = json.loads(capsys.readouterr().out)["models"]
    assert ("org/Model-GGUF/Q8_0/m-Q8_0-00001-of-00002.gguf", 2) in [(one["spec"], one["files"]) for one in listed]


# -- what is here already ------------------------------------------------------------------------------


def place(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("store", ["hub", "hub-new-name", "ollama", "llama.cpp", "lmstudio", "models"])
def test_a_copy_of_another_program_is_taken_and_nothing_fetched(
    hub: Hub, tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = hub.repositories["org/Model-GGUF"].files["m-Q4_K_M.gguf"]
    digest = sha256(data)
    places = {
        "hub": f"hf/hub/models--org--Model-GGUF/blobs/{digest}",
        "hub-new-name": f"hf/hub/models--somebody--else/blobs/{digest}",
        "ollama": f".ollama/models/blobs/sha256-{digest}",
        "llama.cpp": ".cache/llama.cpp/org_Model-GGUF_m-Q4_K_M.gguf",
        "lmstudio": ".lmstudio/models/org/Model-GGUF/other-name.gguf",
        "models": "home/models/deep/er/copy.gguf",
    }
    place(tmp_path / places[store], data)
    (tmp_path / "out").mkdir()
    assert run(["pull", "org/Model-GGUF:Q4_K_M", "--dir", "out"]) == ExitCode.OK
    assert (tmp_path / "out/m-Q4_K_M.gguf").read_bytes() == data
    last = told(capsys)
    assert (hub.sent_bytes, last["fetched_bytes"]) == (0, 0)
    assert isinstance(last["by_source"], dict)
    assert sum(last["by_source"].values()) == len(data)
    assert load_manifest(manifest_of(tmp_path / "out/m-Q4_K_M.gguf")).sha256 == digest


def test_a_copy_with_other_bytes_is_not_taken(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = hub.repositories["org/Model-GGUF"].files["m-Q4_K_M.gguf"]
    place(tmp_path / f".ollama/models/blobs/sha256-{sha256(data)}", data[:-1] + bytes([data[-1] ^ 1]))
    place(tmp_path / ".lmstudio/models/m.gguf", b"GGUF" + bytes(len(data) - 4))
    place(tmp_path / ".cache/llama.cpp/m.gguf", data[:-1])
    assert run(["pull", "org/Model-GGUF:Q4_K_M", "--dir", "."]) == ExitCode.OK
    assert (tmp_path / "m-Q4_K_M.gguf").read_bytes() == data
    assert told(capsys)["fetched_bytes"] == len(data)


def test_offline_the_hubs_cache_is_enough(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = weights(2)
    cache = tmp_path / "hf/hub/models--org--cached"
    place(cache / "refs/main", b"abc123")
    blob = place(cache / f"blobs/{sha256(data)}", data)
    (cache / "snapshots/abc123").mkdir(parents=True)
    (cache / "snapshots/abc123/c-Q8_0.gguf").symlink_to(blob)
    assert run(["pull", "org/cached:Q8_0", "--dir", "."]) == ExitCode.OK
    assert (tmp_path / "c-Q8_0.gguf").read_bytes() == data
    assert run(["pull", "org/cached:Q4_0", "--dir", "."]) == ExitCode.NOT_FOUND
    assert "there is: org/cached/c-Q8_0.gguf" in capsys.readouterr().err
    assert hub.asked == []
