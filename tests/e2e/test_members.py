"""Machines come and go by tokens, while the others write their answers."""

import json
import threading
from pathlib import Path

import pytest

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.e2e.streaming import stream
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.thorough]
NAMES = ("second", "third")


def another(folder: Path) -> Installed:
    folder.mkdir()
    installed = Installed(folder / "home")
    installed.env |= {"TWD_AGENT_PORT": "0", "TWD_SWARM_PORT": "0"}
    return installed


def test_streams_do_not_notice_who_joins_and_who_is_removed(model_cache: Path, tmp_path: Path) -> None:
    """Two machines join while an answer is written; a drafter runs over the bus; one is removed, one leaves."""
    with running(tmp_path / "first" / "home", "--demo", weights=model_cache, TWD_BUS_HOST="0.0.0.0") as first:
        token = json.loads(first.twd("token", "add", "--uses", "2", "--json").stdout)["token"]
        texts: list[str] = []
        ended = threading.Event()

        def write() -> None:
            with client_of(first) as client:
                while not ended.is_set():
                    texts.append("".join(stream(client)))

        writer = threading.Thread(target=write)
        writer.start()
        others = [another(tmp_path / name) for name in NAMES]
        try:
            wait_until(lambda: texts, "a text before anybody joins", 120)
            for name, other in zip(NAMES, others, strict=True):
                done = other.twd("join", "--node", name, TWD_JOIN_TOKEN=token)
                assert done.returncode == 0, done.stderr
                other.up("agent")
            before = len(texts)
            wait_until(lambda: len(texts) > before + 1, "texts while they are there", 120)
            assert first.twd("node", "remove", "second").returncode == 0
            left = others[1].twd("leave")
            assert left.returncode == 0, left.stderr
            for other in others:
                record = other.home / "run" / "instance.json"
                wait_until(lambda record=record: not record.exists(), "all ends there", 60)  # type: ignore[misc]
            after = len(texts)
            wait_until(lambda: len(texts) > after + 1, "texts when they are gone", 120)
        finally:
            ended.set()
            writer.join(120)
            for other in others:
                other.clean_up()
        assert len(set(texts)) == 1, "all of them the same"
        assert json.loads(first.twd("node", "list", "--json").stdout) == []
        assert token not in _all_that_was_written(tmp_path)


def _all_that_was_written(folder: Path) -> str:
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".gguf", ".npz")]
    return "\n".join(file.read_text("utf-8", "replace") for file in files if file.stat().st_size < 1 << 22)
