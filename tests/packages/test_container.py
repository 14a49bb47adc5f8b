"""The container, as far as it can be checked without one: its files fit, and its start and health check are run."""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from contrib.benchmarks.deploy.dockerfile import Step, filled_in, read_stages
from tests.cli.running import Installed
from tests.rules.source import ROOT
from tests.waiting import wait_until
from twd.kit.exit_codes import ExitCode

START = ROOT / "contrib/container/start.sh"
HEALTHY = ROOT / "contrib/container/healthy.py"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
NOBODY = 65534
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SHOW = """#!/bin/sh
[ "$1" != config ] || exec cat "$TWD_CONFIG"
echo "twd $*; config=${TWD_CONFIG:-none}; host=$TWD_EDGE_HOST; credentials=${CREDENTIALS_DIRECTORY:-none}"
"""


def test_the_default_serves_with_logs_outside_and_a_health_check() -> None:
    service = COMPOSE["services"]["twd"]
    assert "./logs:/data/logs" in service["volumes"]
    assert service["healthcheck"]["interval"] == "10s"
    assert service["healthcheck"]["test"] == ["CMD", "twd-healthy"]
    assert service["ports"] == ["${TWD_EDGE_PUBLISH:-127.0.0.1:8088}:8088"]
    assert "/v1/models" in HEALTHY.read_text()
    assert re.search(r"HEALTHCHECK --interval=10s", DOCKERFILE)


def test_the_logs_are_handed_to_the_user_that_writes_them() -> None:
    first, service = COMPOSE["services"]["logs"], COMPOSE["services"]["twd"]
    assert service["depends_on"] == {"logs": {"condition": "service_completed_successfully"}}
    assert first["volumes"] == ["./logs:/logs"]
    assert first["entrypoint"] == ["chown", service["user"], "/logs"]
    assert (first["cap_drop"], first["cap_add"], first["network_mode"]) == (["ALL"], ["CHOWN"], "none")


def test_the_stages_of_the_image() -> None:
    given, stages = read_stages(DOCKERFILE)
    assert given == {"PYTHON": "3.11"}
    assert [(stage.name, filled_in(stage.base, given)) for stage in stages] == [
        ("build", "python:3.11-slim"),
        ("run", "python:3.11-slim"),
        ("services", "run"),
        ("", "run"),
    ]
    assert Step("COPY", {"from": "build"}, "/opt/twd /opt/twd") in stages[1].steps
    assert stages[-1].steps[-1].command == ["twd-start"]
    assert next(step for step in stages[1].steps if step.word == "ENV").pairs["PATH"] == "/opt/twd/bin:$PATH"
    assert all("\n" not in step.text for stage in stages for step in stage.steps)


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


def started(folder: Path, *arguments: str, env: dict[str, str], user: int | None) -> "subprocess.CompletedProcess[str]":
    """Run the start with a program that shows how it is called, and what `config show` prints."""
    program = folder / "bin" / "twd"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SHOW)
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin", "TWD_HOME": str(folder)}
    environment |= {"TWD_SETTINGS": str(folder / "twd.yaml"), **env}
    command = ["sh", "-s", "--", *arguments]
    with START.open() as script:
        return subprocess.run(
            command, stdin=script, env=environment, user=user, cwd="/", capture_output=True, text=True, timeout=30
        )


def start(folder: Path, *arguments: str, **env: str) -> list[str]:
    """The same; what it printed."""
    done = started(folder, *arguments, env=env, user=None)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_key_is_drawn_once_and_told_once(tmp_path: Path) -> None:
    *told, call = start(tmp_path)
    key = (tmp_path / "credentials/edge.token").read_text().strip()
    assert len(key) >= 32
    assert told[-1] == f"twd:   Authorization: Bearer {key}"
    assert call == f"twd up --demo; config=none; host=0.0.0.0; credentials={tmp_path}/credentials"
    assert (tmp_path / "credentials/edge.token").stat().st_mode & 0o077 == 0
    assert start(tmp_path) == [call]
    (tmp_path / "keys.json").touch()
    assert start(tmp_path) == [call], "it holds beside keys with names"


def test_no_key_is_drawn_beside_keys_with_names(tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch()
    start(tmp_path)
    assert not (tmp_path / "credentials").exists()


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
        ({"TIGHTWAD_TARGET_URL": "http://h:1"}, False, "twd up; config=none;"),
        ({"TIGHTWAD_TARGET_URL": "http://h:1"}, True, "twd up; config={settings};"),
        ({}, True, "twd up; config={settings};"),
    ],
)
def test_what_is_served_follows_from_what_is_given(
    tmp_path: Path, env: dict[str, str], settings: bool, called: str
) -> None:
    file = tmp_path / "twd.yaml"
    if settings:
        file.write_text("edge: {}\n")
    assert start(tmp_path, TWD_TOKEN="long-enough-to-be-one", **env)[-1].startswith(called.format(settings=file))


@pytest.mark.parametrize("key", ["edge.token", "edge.allow_unauthenticated"])
def test_settings_that_say_who_may_enter_win(tmp_path: Path, key: str) -> None:
    (tmp_path / "twd.yaml").write_text(f'{{"{key}": "as `config show` prints it"}}')
    (call,) = start(tmp_path)
    assert call.endswith("credentials=none")


@pytest.mark.parametrize("closed", [".", "logs"])
def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(closed: str) -> None:
    with TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "logs").mkdir()
        for place in (folder, folder / "logs"):
            place.chmod(0o777)
        (folder / "bin").mkdir()
        (folder / closed).chmod(0o555)
        done = started(folder, env={}, user=None if os.getuid() else NOBODY)
        (folder / closed).chmod(0o755)
    assert done.returncode == ExitCode.CANNOT_START
    assert f"cannot write to {folder / closed}." in done.stderr
    assert "chown" in done.stderr


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
            assert healthy(TWD_TOKEN="another-key-of-some-length").returncode == 0, "whose key it is, others decide"
            assert healthy(TWD_EDGE_PORT="1").returncode == 0, "it asks where the API is"
        finally:
            process.terminate()
        assert process.stdout is not None
        assert b"Authorization: Bearer" in process.stdout.read()
        assert process.wait(60) == 0
