"""Two replicas of one model: both serve, and when one is killed its jobs go on at the other."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.waiting import wait_until
from twd.engine.demo_model import demo_model

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow, pytest.mark.thorough]
OPTIONS = {"model": "twin", "prompt": "The sea and the moon", "max_tokens": 160, "temperature": 0.8, "seed": 5}
MOST_ASKS = 60
"""Chance deals jobs out: that all of these go to one replica will not happen."""


@pytest.fixture(scope="module")
def house(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    home = tmp_path_factory.mktemp("replicas") / "home"
    (home.parent / "twd.yaml").write_text(
        "agent: {port: 0}\n"
        f"models: {{twin: {{path: '{demo_model(model_cache, 'q4_0')}', ctx_size: 256, parallel: 2, replicas: 2}}}}\n"
    )
    with running(home, measured=model_cache) as installed:
        wait_until(lambda: len(replicas(installed)) == 2, "both are ready")
        yield installed


@pytest.fixture
def client(house: Installed) -> Iterator[OpenAI]:
    with client_of(house) as client:
        yield client


def replicas(house: Installed) -> dict[str, int]:
    """Those that are ready, with their processes."""
    services = told(house, "status")["services"]
    return {one["instance"]: one["pid"] for one in services if one["service"] == "speculator" and one["facts"]["ready"]}


def told(house: Installed, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{house.port}/v1/twd/{path}", timeout=30) as answer:
        return json.load(answer)


def ask(client: OpenAI) -> None:
    client.completions.create(**{**OPTIONS, "max_tokens": 2})  # type: ignore[call-overload]


def served(house: Installed) -> set[str]:
    """Who ended jobs."""
    return {event["source"] for event in told(house, "history")["jobs"]}


def both_serve(house: Installed, client: OpenAI) -> None:
    """Jobs go to either, sooner or later."""
    wanted = set(replicas(house))
    for _ in range(MOST_ASKS):
        ask(client)
        if wanted <= served(house):
            return
    raise AssertionError(f"{MOST_ASKS} jobs all went to {served(house)}")


def text_of(client: OpenAI, kill: "Killer | None" = None) -> str:
    parts: list[str] = []
    for chunk in client.completions.create(**OPTIONS, stream=True):  # type: ignore[call-overload]
        if kill is not None and len(parts) == 1:
            kill(chunk.id)
        parts += [choice.text for choice in chunk.choices]
    return "".join(parts)


class Killer:
    """Ends the replica that a job runs at."""

    def __init__(self, house: Installed) -> None:
        self._house = house
        self._pids = replicas(house)
        self.victim = ""

    def __call__(self, job: str) -> None:
        events = told(self._house, f"jobs/{job}")["events"]
        self.victim = next(event["source"] for event in events if event["source"] in self._pids)
        os.kill(self._pids[self.victim], signal.SIGKILL)


def test_both_replicas_serve(house: Installed, client: OpenAI) -> None:
    both_serve(house, client)


def test_the_text_goes_on_at_the_other_and_nobody_is_refused(house: Installed, client: OpenAI) -> None:
    undisturbed = text_of(client)
    kill = Killer(house)
    assert text_of(client, kill) == undisturbed
    assert kill.victim
    for _ in range(5):
        ask(client)
    wait_until(lambda: len(replicas(house).keys() - {kill.victim}) == 2, "another is there in its place")
    both_serve(house, client)
