"""The demo as a user has it: started, talked to, ended."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.running import Installed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
QUESTION = "List the days of the week in order."
SHORT = ("--temperature", "0", "--max-tokens", "24")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One demo for all tests here."""
    installed = Installed(tmp_path_factory.mktemp("demo") / "state")
    try:
        installed.up("--demo")
        yield installed
        assert installed.twd("down").returncode == 0
    finally:
        installed.clean_up()


def told(demo: Installed, *arguments: str) -> Any:
    done = demo.twd(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_question_is_answered(demo: Installed) -> None:
    done = demo.twd("chat", QUESTION, *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Monday" in done.stdout


def test_drafts_change_no_text(demo: Installed) -> None:
    answer = told(demo, "chat", QUESTION, "--compare", "--json", "--temperature", "0.8", "--max-tokens", "48")
    assert answer["equal"] is True
    assert answer["without_drafts"]["twd"]["checked"] == 0
    assert answer["with_drafts"]["twd"]["passes"] <= answer["without_drafts"]["twd"]["passes"]


def test_the_same_seed_gives_the_same_text(demo: Installed) -> None:
    options = ("--json", "--temperature", "1", "--max-tokens", "24")
    first = told(demo, "chat", QUESTION, *options)
    again = told(demo, "chat", QUESTION, *options, "--direct", "--seed", str(first["twd"]["seed"]))
    assert again["text"] == first["text"]


def test_a_model_that_is_not_there(demo: Installed) -> None:
    done = demo.twd("chat", QUESTION, "-m", "nope")
    assert done.returncode == 9
    assert "smollm2-135m" in done.stderr
