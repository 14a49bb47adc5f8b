"""`twd manifest` and `twd swarm`, as somebody types them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.killed_pull import pulled_after_a_kill
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.pieces.manifest import load_manifest
from twd.pieces.names import manifest_of
from twd.pieces.tree import UNIT

TWD = (sys.executable, "-m", "twd")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    path = tmp_path / "some model.gguf"
    path.write_bytes(os.urandom(3 * UNIT + 5))
    return path


@contextmanager
def seeding(*arguments: str) -> Iterator[str]:
    """`twd swarm seed` as a process of its own; its address."""
    command = [*TWD, "swarm", "seed", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            text = ""
            while "elsewhere" not in text:
                line = process.stdout.readline()
                assert line, text
                text += line
            found = re.search(r"at (http://\S+);", text)
            assert found is not None
            yield re.sub(r"//[^:/]+:", "//127.0.0.1:", found[1])
        finally:
            process.terminate()
            process.wait(20)


def test_a_manifest_and_a_torrent(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["manifest", "create", str(file), "--piece-size", "1", "--torrent"]) == ExitCode.OK
    made = load_manifest(manifest_of(file))
    assert made.root in capsys.readouterr().out
    assert len(made.pieces) == 4
    torrent = file.with_name(file.name + ".torrent").read_bytes()
    assert bytes.fromhex(made.root) in torrent
    assert f"/v1/swarm/{made.root}/file".encode() in torrent


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["manifest", "create", "FILE", "--piece-size", "48"], ExitCode.CONFIG, "take 32 or 64"),
        (["manifest", "create", "none.gguf"], ExitCode.NOT_FOUND, "cannot be read"),
        (["manifest", "create", "."], ExitCode.CONFIG, "folder"),
        (["manifest", "create", "/dev/zero"], ExitCode.CONFIG, "is a pipe or a device"),
        (["manifest", "create", "FILE", "-o", "FILE"], ExitCode.USAGE, "is what is to be read"),
        (["manifest", "create", "FILE", "-o", "."], ExitCode.USAGE, "is a folder"),
        (["manifest", "create", "FILE", "-o", "none/x.json"], ExitCode.USAGE, "there is no folder none"),
        (["manifest", "create", "FILE", "--torrent", "--web-seed", "rig:9080"], ExitCode.CONFIG, "http://"),
        (["swarm", "seed", "none.gguf"], ExitCode.NOT_FOUND, "no file"),
        (["swarm", "seed", "FILE", "--host", "0.0.0.0"], ExitCode.BUS_DOWN, "no token is set"),
        (["swarm", "seed", "FILE", "--allowed-ips", "nowhere"], ExitCode.USAGE, "no range"),
        (["swarm", "pull", "out", "--manifest", "x", "--peer", "http://127.0.0.1:9"], ExitCode.NOTHING_RUNS, "answer"),
        (["swarm", "pull", "out", "--manifest", "FILE", "--peer", "http://127.0.0.1:9"], ExitCode.CONFIG, "manifest"),
        (["swarm", "pull", "out"], ExitCode.USAGE, "--peer URL"),
        (["swarm", "pull", "out", "--manifest", "x"], ExitCode.NOTHING_RUNS, "nothing runs"),
        (["swarm", "status", "none.gguf"], ExitCode.NOT_FOUND, "neither"),
    ],
)
def test_what_cannot_be_done_says_why(
    file: Path, arguments: list[str], code: ExitCode, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes()
    assert run([str(file) if one == "FILE" else one for one in arguments]) == code
    assert cause in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_file_goes_from_a_seeder_to_a_folder(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    token = ["--token", "gehëim"]
    with seeding(str(file), *token) as url:
        assert run(["swarm", "pull", str(copies), "--manifest", f"{url}/manifest", "--peer", url]) != ExitCode.OK
        assert "token" in capsys.readouterr().err
        pull = ["swarm", "pull", str(copies), "--manifest", file.name, "--peer", url, *token, "--verify", "--json"]
        assert run(pull) == ExitCode.OK
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (told[-1]["state"], told[-1]["done_bytes"]) == ("finished", file.stat().st_size)
        assert run(pull) == ExitCode.OK
        assert "here already" in capsys.readouterr().err
        assert run([*pull[:3], "--manifest", "other", "--peer", url, *token]) == ExitCode.NOT_FOUND
        assert "there is: some model.gguf" in capsys.readouterr().err
    assert (copies / file.name).read_bytes() == file.read_bytes()
    assert run(["swarm", "status", str(copies / file.name), "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["state"] == "whole"


@pytest.mark.thorough
def test_a_pull_that_was_killed_goes_on(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.gguf"
    file.write_bytes(os.urandom(12 * UNIT))
    with seeding(str(file)) as url:
        pull = [*TWD, "swarm", "pull", str(target), "--manifest", f"{url}/manifest", "--peer", url, "--json"]
        last = pulled_after_a_kill(pull)
    assert target.read_bytes() == file.read_bytes()
    assert last["fetched_bytes"] <= 10 * UNIT


@pytest.mark.model
def test_layers_alone_become_a_slice(
    q4_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    model, folder = tmp_path / q4_path.name, tmp_path / "slices"
    model.symlink_to(q4_path)
    folder.mkdir()
    with seeding(str(model)) as url:
        pull = ["swarm", "pull", str(folder), "--peer", url, "--layers", "24-30", "--head", "--json"]
        assert run(pull) == ExitCode.OK
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert run([*pull[:-4], "--layers", "thirty"]) == ExitCode.USAGE
        assert run([*pull[:-4], "--head"]) == ExitCode.USAGE
        assert run([*pull[:-4], "--layers", "24-99"]) == ExitCode.CONFIG
        assert "out of range" in capsys.readouterr().err
    assert run(["slice", str(model), "24-30", "--head", "-o", str(tmp_path / "whole.gguf")]) == ExitCode.OK
    assert Path(told["path"]).parent == folder
    assert Path(told["path"]).read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert told["fetched_bytes"] < model.stat().st_size * 0.7
    capsys.readouterr()
    assert run(["slice"]) == ExitCode.OK
    assert "parts of 1 model, " in capsys.readouterr().out
