"""The compose file holds together: everything it names is there, and nothing runs with more than it needs."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.bus.deployed import DEPLOY, Deployment
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.settings.env import variables
from twd.wire.base import InstanceId, NodeId
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.service import Health, ServiceLease

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MACHINES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "machines.yaml").read_text())
EXPECTED = ("broker", "agent", "coordinator", "speculator", "drafter", "edge", "metrics", "swarm")
each_service = pytest.mark.parametrize("name", EXPECTED)


def test_every_service_is_there() -> None:
    assert set(SERVICES) == {*EXPECTED, "buckets"}


def test_only_who_makes_the_bucket_has_the_admins_key_and_it_ends() -> None:
    holders = [name for name, service in SERVICES.items() if "admin.nk" in service.get("secrets", ())]
    assert holders == ["buckets"]
    assert SERVICES["buckets"]["command"] == ["make-buckets"]
    assert SERVICES["buckets"]["restart"] == "no"


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
    assert service["depends_on"]["broker"] == {"condition": "service_healthy"}
    env = service["environment"]
    assert env["TWD_BUS_NKEY_DIR"] == "/run/secrets"
    given = [secret if isinstance(secret, str) else secret["target"] for secret in service["secrets"]]
    keys = {secret for secret in given if secret.endswith(".nk")}
    children = {"stage.nk", "drafter.nk"} if name == "agent" else set()
    assert keys == {f"{name}.nk"} | children, "its own key, and no second one"
    assert SERVICES[name]["hostname"] == {"swarm": "agent"}.get(name, name), "its keys are for this machine"
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
    made = {f"./keys/{machine}/{role}.nk" for machine, roles in MACHINES.items() for role in roles}
    made |= {"./keys/edge.token", "./certs/ca.pem", "./certs/broker.key"}
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} <= made
    used = [secret for service in SERVICES.values() for secret in service.get("secrets", ())]
    assert {secret if isinstance(secret, str) else secret["source"] for secret in used} == set(COMPOSE["secrets"])
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    for mount in {mount.split(":")[0] for mount in mounts if mount.startswith("./")}:
        assert mount in ("./keys/users.conf", "./certs/broker.pem") or (DEPLOY / mount).exists(), mount


def test_the_broker_finds_what_its_configuration_names() -> None:
    config = "".join((DEPLOY / name).read_text() for name in ("nats-server.conf",))
    named = set(re.findall(r'"((?:keys|certs)/[^"]+|[a-z]+\.conf)"', config))
    broker = SERVICES["broker"]
    given = [volume.split(":")[1] for volume in broker["volumes"]] + [s["target"] for s in broker["secrets"]]
    assert {f"/etc/nats/{name}" for name in named} <= set(given)


def test_the_image_is_a_stage_of_the_one_dockerfile() -> None:
    """tests/packages looks at what that file copies."""
    build = SERVICES["agent"]["build"]
    dockerfile = (DEPLOY / build["context"] / build.get("dockerfile", "Dockerfile")).read_text()
    stage = dockerfile.partition(f" AS {build['target']}\n")[2].partition("\nFROM ")[0]
    assert {"/usr/local/bin/healthy", "/usr/local/bin/make-buckets"} <= set(stage.split())
    assert "USER 1000:1000" in stage


# -- the health check ------------------------------------------------------------------------------


def lease(health: Health, node: str, *, ready: bool) -> bytes:
    name = InstanceId(f"drafter.{node}.x")
    told = ServiceLease(
        service="drafter", instance=name, node=NodeId(node), pid=1, version="1", started_ms=1, renewed_ms=1
    )
    return msgspec.json.encode(msgspec.structs.replace(told, health=health, facts=DrafterLeaseFacts(ready=ready)))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, int]]:
    made = Deployment(tmp_path_factory.mktemp("deployed"))
    yield made, made.start("nats-server.conf")
    made.end()


@pytest.mark.nats
@pytest.mark.parametrize(
    ("health", "ready", "code"),
    [(Health.OK, True, 0), (Health.OK, False, 0), (Health.DRAINING, True, 0), (Health.DEGRADED, False, 1)],
)
async def test_a_service_is_healthy_while_its_lease_says_so(
    deployment: tuple[Deployment, int], tmp_path: Path, health: Health, ready: bool, code: int
) -> None:
    """With its own key, for which that is enough."""
    files, port = deployment
    address = files.address("drafter", port)
    env = {"TWD_BUS_URL": address.url, "TWD_BUS_TLS_CA": address.tls.ca, "TWD_BUS_NKEY_FILE": address.nkey_file}
    env |= {"TWD_NODE": "node1", "TWD_HOME": str(tmp_path / "home")}
    check = await asyncio.create_subprocess_exec(  # beside the service, as in a container
        sys.executable, str(DEPLOY / "healthy.py"), "drafter", env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE
    )
    bus = await files.connect("drafter", port)
    leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    try:
        while check.returncode is None:
            await leases.put("drafter.node1.x", lease(health, "node1", ready=ready))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(check.wait(), 0.2)
        assert check.stdout is not None
        said = (await check.stdout.read()).decode()
        assert check.returncode == code, said
        assert bool(said) == bool(code)
    finally:
        await bus.close()


def test_no_broker_is_no_health(tmp_path: Path) -> None:
    env = {**os.environ, "TWD_BUS_URL": "nats://127.0.0.1:1", "TWD_HOME": str(tmp_path)}
    argv = [sys.executable, "-c", "import healthy; healthy.WAIT_S = 0.1; raise SystemExit(healthy.main('drafter'))"]
    checked = subprocess.run(argv, env=env, cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert checked.stdout.startswith("drafter: ")
