"""A broker that gives each role its rights alone: every service does its work there with the key of its role."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.bus.deployed import Deployment
from tests.cli.running import TWD, Installed, all_gone
from tests.engine.tiny_models import write_llama
from tests.waiting import until_it_answers
from twd.bus.base import Leases
from twd.bus.permissions import ADMIN, REGISTRY, ROLE_NAMES
from twd.kit.connect import address_of
from twd.kit.service import LEASE_TTL_S
from twd.settings.model import BackendConfig, BusConfig, Settings
from twd.supervisor.service_catalog import SERVICES, ServiceChoice, made_by
from twd.wire.service import read_lease

DENIED = "does not let this user"
NODE = "desk"
MACHINE = f"{NODE}:\n" + "".join(f"  {role}:\n" for role in ROLE_NAMES)
AWAY = "http://127.0.0.1:1"
OPTIONS = {"speculator": ["--model", "tiny"], "relay": ["--model", "away"], "stage": ["--model", "tiny"]}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, int]]:
    deployment = Deployment(tmp_path_factory.mktemp("deployed"), MACHINE)
    port = deployment.start("nats-server.conf")
    deployment.make_buckets(port, NODE)
    yield deployment, port
    deployment.end()


NEEDS: Final[dict[str, dict[str, Any]]] = {"gate": {"gate": {"fleet": ["away"]}}}
"""Settings without which a service has nothing to do."""
TOGETHER: Final = ("edge", "metrics", "agent", "speculator", "drafter")
"""Those that `twd up` starts with their keys below."""
ALONE: Final = ("stage", "relay")
"""Those that are started alone; the others, too, where there is more time."""


def configure(installed: Installed, broker: tuple[Deployment, int], *roles: str, **more: Any) -> None:
    """Write the settings, and a folder with the keys of these roles."""
    deployment, port = broker
    folder = installed.home.parent
    keys = folder / "keys"
    keys.mkdir()
    for role in roles:
        shutil.copy(deployment.folder / "keys" / NODE / f"{role}.nk", keys)
    model = str(write_llama(folder / "tiny.gguf"))
    settings: dict[str, Any] = {
        "node": NODE,
        "bus": {"url": f"tls://127.0.0.1:{port}", "nkey_dir": str(keys)},
        "agent": {"port": 0},
        "models": {"tiny": {"path": model, "ctx_size": 512, "parallel": 1}},
        "backends": {"away": {"url": AWAY}},
        "drafters": [{"path": model, "for_model": "tiny"}],
        **more,
    }
    settings["bus"]["tls"] = {"ca": str(deployment.folder / "certs" / "ca.pem")}
    (folder / "twd.yaml").write_text(json.dumps(settings))


async def there(leases: Leases) -> list[tuple[str, int]]:
    """Service and process of each lease."""
    found = [read_lease(entry.value, entry.key) for entry in await leases.entries()]
    return [(one.service, one.pid) for one in found if one is not None]


def test_every_service_has_a_role() -> None:
    assert set(SERVICES) <= set(ROLE_NAMES)


def test_a_role_takes_its_own_key_of_a_folder() -> None:
    assert address_of(BusConfig(nkey_dir="/keys"), "stage").nkey_file == "/keys/stage.nk"
    assert address_of(BusConfig(nkey_file="/one.nk"), "stage").nkey_file == "/one.nk"


@pytest.mark.parametrize(("checks", "role"), [(True, "speculator"), (False, "relay")])
def test_a_relay_signs_in_as_what_its_server_makes_of_it(
    checks: bool, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.backends.factory.checks_guesses", lambda *_, **__: checks)
    settings = Settings(backends={"other": BackendConfig(url=AWAY)})
    assert made_by("relay", settings, ServiceChoice("other")).role == role


@pytest.mark.nats
@pytest.mark.e2e
@pytest.mark.parametrize(
    "service", [pytest.param(name, marks=() if name in ALONE else pytest.mark.thorough) for name in SERVICES]
)
async def test_a_service_runs_with_the_key_of_its_role_alone(
    installed: Installed, broker: tuple[Deployment, int], service: str
) -> None:
    configure(installed, broker, service, **NEEDS.get(service, {}))
    deployment, port = broker
    admin = await deployment.connect(ADMIN, port, node=NODE)
    leases = await admin.leases(REGISTRY, LEASE_TTL_S)
    told = installed.home.parent / "told"
    with told.open("wb") as out:
        command = (*TWD, "run", service, *OPTIONS.get(service, ()))
        process = await asyncio.create_subprocess_exec(
            *command, env=installed.env, cwd=installed.home.parent, stdout=out, stderr=out
        )

    async def it_is_there() -> bool:
        assert process.returncode is None, told.read_text()
        return (service, process.pid) in await there(leases)

    await until_it_answers(it_is_there, f"{service} has a lease")
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 60) == 0, told.read_text()
    assert DENIED not in told.read_text()
    await admin.close()


@pytest.mark.nats
@pytest.mark.e2e
def test_up_gives_each_of_its_processes_its_own_key(installed: Installed, broker: tuple[Deployment, int]) -> None:
    configure(installed, broker, *ROLE_NAMES)
    installed.up(*TOGETHER)
    pids = installed.pids()
    assert installed.status()["healthy"]
    stopped = installed.twd("stop", "tiny")
    assert stopped.returncode == 0, stopped.stderr
    assert installed.twd("down").returncode == 0
    all_gone(pids)
    for log in (installed.home / "logs").glob("*.log"):
        assert DENIED not in log.read_text(), log.name
