"""The container, as far as it can be checked without one: its files fit, and its start and health check are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.running import Installed
from tests.rules.source import ROOT
from tests.waiting import wait_until

START = ROOT / "contrib/container/start.sh"
HEALTHY = ROOT / "contrib/container/healthy.py"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SHOW = '#!/bin/sh\necho "twd $*; host=$TWD_EDGE_HOST; home=$TWD_HOME; credentials=${CREDENTIALS_DIRECTORY:-none}"\n'


def test_the_default_serves_with_logs_outside_and_a_health_check() -> None:
    service = COMPOSE["services"]["twd"]
    assert "./logs:/data/logs" in service["volumes"]
    assert service["healthcheck"]["interval"] == "10s"
    assert service["healthcheck"]["test"] == ["CMD", "twd-healthy"]
    assert service["ports"] == ["${TWD_EDGE_PUBLISH:-127.0.0.1:8088}:8088"]
    assert "/v1/models" in HEALTHY.read_text()
    assert re.search(r"HEALTHCHECK --interval=10s", DOCKERFILE)


def test_everything_that_the_image_copies_is_here_and_not_ignored() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(f"{one}/") for one in kept), source
    for script in (START, HEALTHY):
        assert os.access(script, os.X_OK)


def test_the_variables_of_the_forerunner_are_passed_on() -> None:
    names = set(COMPOSE["services"]["twd"]["environment"])
    assert {"TIGHTWAD_TARGET_URL", "TIGHTWAD_DRAFT_URL", "TIGHTWAD_MAX_DRAFT_TOKENS", "TIGHTWAD_TOKEN"} <= names


def start(folder: Path, *arguments: str, **env: str) -> list[str]:
    """Run the start with a program that shows how it is called."""
    program = folder / "bin" / "twd"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SHOW)
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin", "TWD_HOME": str(folder)}
    environment["TWD_SETTINGS"] = str(folder / "twd.yaml")
    done = subprocess.run(
        ["sh", str(START), *arguments], env={**environment, **env}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_key_is_drawn_once_and_told_once(tmp_path: Path) -> None:
    *told, call = start(tmp_path)
    key = (tmp_path / "credentials/edge.token").read_text().strip()
    assert len(key) >= 32
    assert told[-1] == f"twd:   Authorization: Bearer {key}"
    assert call == f"twd up --demo; host=0.0.0.0; home={tmp_path}; credentials={tmp_path}/credentials"
    assert (tmp_path / "credentials/edge.token").stat().st_mode & 0o077 == 0
    assert start(tmp_path) == [call]


@pytest.mark.parametrize(
    "name", ["TWD_TOKEN", "TIGHTWAD_TOKEN", "TIGHTWAD_PROXY_TOKEN", "TIGHTWAD_ALLOW_UNAUTHENTICATED"]
)
def test_a_key_or_a_word_of_somebodys_own_wins(tmp_path: Path, name: str) -> None:
    (call,) = start(tmp_path, **{name: "true-or-a-long-enough-key"})
    assert call.endswith("credentials=none")
    assert not (tmp_path / "credentials").exists()


@pytest.mark.parametrize(
    ("env", "settings", "called"),
    [
        ({"TIGHTWAD_TARGET_URL": "http://h:1"}, False, "twd up;"),
        ({"TIGHTWAD_TARGET_URL": "http://h:1"}, True, "twd -c {settings} up;"),
        ({}, True, "twd -c {settings} up;"),
    ],
)
def test_what_is_served_follows_from_what_is_given(
    tmp_path: Path, env: dict[str, str], settings: bool, called: str
) -> None:
    file = tmp_path / "twd.yaml"
    if settings:
        file.write_text("edge: {}\n")
    assert start(tmp_path, TWD_TOKEN="long-enough-to-be-one", **env)[-1].startswith(called.format(settings=file))


def test_any_command_can_be_run_instead(tmp_path: Path) -> None:
    assert start(tmp_path, "status", "--json", TWD_TOKEN="long-enough-to-be-one")[0].startswith("twd status --json;")


@pytest.mark.e2e
@pytest.mark.nats
def test_what_the_container_starts_is_healthy_with_the_drawn_key(installed: Installed, tmp_path: Path) -> None:
    program = tmp_path / "twd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m twd "$@"\n')
    program.chmod(0o755)
    env = {**installed.env, "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"}

    def healthy(**more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, str(HEALTHY)], env={**env, **more}, capture_output=True, text=True)

    assert "refused" in healthy().stdout
    with subprocess.Popen(["sh", str(START), "up", "--no-models"], env=env, stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: healthy().returncode == 0, "it answers with the key that was drawn")
            assert "401" in healthy(TWD_TOKEN="another-key-of-some-length").stdout
        finally:
            process.terminate()
        assert process.stdout is not None
        assert b"Authorization: Bearer" in process.stdout.read()
        assert process.wait(60) == 0
