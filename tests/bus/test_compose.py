"""The compose file holds together: everything it names is there, and nothing runs with more than it needs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bus.deployed import DEPLOY
from twd.bus.permissions import ROLE_NAMES
from twd.kit.settings_env import variables

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXPECTED = ("broker", "agent", "coordinator", "speculator", "drafter", "edge", "metrics", "swarm")
each_service = pytest.mark.parametrize("name", EXPECTED)


def test_every_service_is_there() -> None:
    assert set(SERVICES) == set(EXPECTED)


@each_service
def test_it_is_watched_restarted_and_locked_up(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] == ["CMD", "healthy", name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith("0")
    assert all(port.startswith("${") and ":-127.0.0.1:" in port for port in service.get("ports", ()))


@each_service
def test_it_waits_for_the_broker_and_signs_in_with_its_own_key(name: str) -> None:
    service = SERVICES[name]
    if name == "broker":
        return
    assert service["depends_on"] == {"broker": {"condition": "service_healthy"}}
    env = service["environment"]
    assert env["TWD_BUS_NKEY_DIR"] == "/run/secrets"
    assert f"{name}.nk" in service["secrets"]
    children = {"stage.nk", "drafter.nk"} if name == "agent" else set()
    keys = {secret for secret in service["secrets"] if secret.endswith(".nk")}
    assert children <= keys <= {f"{name}.nk", "status.nk"} | children
    assert set(env) <= {*variables(), "TWD_CONFIG"}
    assert "TOKEN" not in " ".join(env), "secrets come as files"


@each_service
def test_it_runs_a_program_of_this_name(name: str) -> None:
    expected = {
        "broker": ["nats-server", "-c", "nats-server.conf"],
        "agent": ["twd-agent"],
        "edge": ["sh", "-c", 'TWD_TOKEN="$$(cat /run/secrets/edge.token)" exec twd run edge'],
    }
    assert SERVICES[name]["command"] == expected.get(name, ["twd", "run", name])


def test_every_secret_is_made_by_a_script_and_every_mounted_file_is_there() -> None:
    made = {f"./keys/{role}.nk" for role in ROLE_NAMES} | {"./keys/edge.token", "./certs/ca.pem", "./certs/broker.key"}
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} <= made
    used = [secret for service in SERVICES.values() for secret in service.get("secrets", ())]
    assert {secret if isinstance(secret, str) else secret["source"] for secret in used} == set(COMPOSE["secrets"])
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    for mount in {mount.split(":")[0] for mount in mounts if mount.startswith("./")}:
        assert mount in ("./keys/public.conf", "./certs/broker.pem") or (DEPLOY / mount).exists(), mount


def test_the_broker_finds_what_its_configuration_names() -> None:
    config = "".join((DEPLOY / name).read_text() for name in ("nats-server.conf", "permissions.conf"))
    named = set(re.findall(r'"((?:keys|certs)/[^"]+|[a-z]+\.conf)"', config))
    broker = SERVICES["broker"]
    given = [volume.split(":")[1] for volume in broker["volumes"]] + [s["target"] for s in broker["secrets"]]
    assert {f"/etc/nats/{name}" for name in named} <= set(given)


def test_the_dockerfile_copies_what_there_is() -> None:
    root = DEPLOY.parents[1]
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            assert all((root / source).exists() for source in sources), line


# -- the health check ------------------------------------------------------------------------------


def run_check(tmp_path: Path, service: str, status: str) -> subprocess.CompletedProcess[str]:
    fake = tmp_path / "twd"
    fake.write_text(f"#!/bin/sh\ncat << 'END'\n{status}\nEND\n")
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, str(DEPLOY / "healthy.py"), service], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("state", "node", "code"),
    [("ready", "", 0), ("loading", "", 0), ("failed", "", 1), ("silent", "", 1), ("ready", "elsewhere", 1)],
)
def test_a_service_is_healthy_while_its_lease_says_so(tmp_path: Path, state: str, node: str, code: int) -> None:
    lease = {"service": "drafter", "node": node or os.uname().nodename, "state": state}
    checked = run_check(tmp_path, "drafter", json.dumps({"services": [lease]}))
    assert checked.returncode == code
    assert bool(checked.stdout) == bool(code)


@pytest.mark.parametrize("status", ["", "no broker answers", "[]"])
def test_no_answer_is_no_health(tmp_path: Path, status: str) -> None:
    assert run_check(tmp_path, "drafter", status).returncode == 1
