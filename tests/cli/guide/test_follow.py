"""A program that knows nothing but `twd guide --json` follows it, and the API answers in the end."""

import json
import shlex
import urllib.request
from pathlib import Path

import pytest

from tests.cli.running import Installed
from tests.model_fixtures import model_cache
from twd.engine.demo_model import demo_model

__all__ = ["model_cache"]
pytestmark = [pytest.mark.e2e, pytest.mark.nats, pytest.mark.model, pytest.mark.slow]


def follow(installed: Installed) -> str:
    """Type what the guide says; returns the answer to a question."""
    told = json.loads(installed.twd("guide", "--json").stdout)
    for command in told["commands"]:
        done = installed.twd(*shlex.split(command["run"])[1:])
        assert done.returncode == 0, f"{command['run']}: {done.stdout}{done.stderr}"
    body = json.dumps({"model": "default", "prompt": "One, two,", "max_tokens": 4}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{told['facts']['api']}/v1/completions", body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["choices"][0]["text"])


@pytest.mark.thorough
def test_without_a_model_of_ones_own(installed: Installed, model_cache: Path) -> None:
    installed.take_demo_files(model_cache)
    assert follow(installed)
    again = json.loads(installed.twd("guide", "--json").stdout)
    assert again["commands"] == []
    assert installed.twd("down").returncode == 0


@pytest.mark.thorough
def test_with_a_model_of_ones_own(installed: Installed, model_cache: Path) -> None:
    (installed.home / "models").mkdir(parents=True)
    (installed.home / "models/smollm2.gguf").symlink_to(demo_model(model_cache))
    shown = installed.twd("guide")
    assert "twd init --local --yes" in shown.stdout
    assert follow(installed)
    assert installed.twd("down").returncode == 0
