"""The demo as a user has it: started, talked to, ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
QUESTION = "List the days of the week in order."
SHORT = ("--temperature", "0", "--max-tokens", "24")


class Demo:
    """The commands of one installation."""

    def __init__(self, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TWD_")}
        self._environment = {**kept, "TWD_HOME": str(home), "TWD_EDGE_PORT": "0"}

    def twd(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "twd", *arguments],
            env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def told(self, *arguments: str) -> Any:
        done = self.twd(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    started = demo.twd("up", "--demo", "-d", "--json", timeout_s=300)
    try:
        assert started.returncode == 0, started.stderr
        yield demo
    finally:
        demo.twd("down", timeout_s=90)


def test_a_question_is_answered(demo: Demo) -> None:
    done = demo.twd("chat", QUESTION, *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Monday" in done.stdout


def test_drafts_change_no_text(demo: Demo) -> None:
    told = demo.told("chat", QUESTION, "--compare", "--json", "--temperature", "0.8", "--max-tokens", "48")
    assert told["equal"] is True
    assert told["without_drafts"]["twd"]["checked"] == 0
    assert told["with_drafts"]["twd"]["passes"] <= told["without_drafts"]["twd"]["passes"]


def test_the_same_seed_gives_the_same_text(demo: Demo) -> None:
    options = ("--json", "--temperature", "1", "--max-tokens", "24")
    first = demo.told("chat", QUESTION, *options)
    again = demo.told("chat", QUESTION, *options, "--direct", "--seed", str(first["twd"]["seed"]))
    assert again["text"] == first["text"]


def test_a_model_that_is_not_there(demo: Demo) -> None:
    done = demo.twd("chat", QUESTION, "-m", "nope")
    assert done.returncode == 9
    assert "smollm2-135m" in done.stderr
