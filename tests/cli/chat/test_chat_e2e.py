"""The demo as a user has it: started, talked to, ended."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Installed, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
QUESTION = "List the days of the week in order."
SHORT = ("--temperature", "0", "--max-tokens", "24")


def told(demo: Installed, *arguments: str) -> Any:
    done = demo.twd(*arguments)
    assert done.returncode == 0, done.stderr or done.stdout[-6000:]
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_a_demo_begins_with_an_empty_folder(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--demo") as installed:
        assert "Monday" in installed.twd("chat", QUESTION, *SHORT).stdout


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


def test_metrics_count_what_was_said(demo: Installed) -> None:
    answer = told(demo, "chat", QUESTION, "--json", *SHORT)
    wait_until(
        lambda: metric(demo, "twd_tokens_generated_total") >= answer["usage"]["completion_tokens"], "it is counted"
    )
    assert metric(demo, "twd_time_to_first_token_seconds_count") >= 1
    assert metric(demo, "twd_model_exact") in (0, 1)


def test_the_doctor_finds_nothing_that_fails(demo: Installed) -> None:
    found = told(demo, "doctor", "--json")
    names = {result["name"] for section in found["sections"] for result in section["results"]}
    assert found["passed"]
    assert {"bus", "API", "memory", "models.smollm2-135m", "exactness of smollm2-135m"} <= names


def metric(demo: Installed, name: str) -> float:
    """A figure of the demo's model, as Prometheus reads it; -1 while there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{demo.port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f'{name}{{model="smollm2-135m"')]
    return float(found[0].rsplit(" ", 1)[1]) if found else -1.0
