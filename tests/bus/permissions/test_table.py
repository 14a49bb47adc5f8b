"""The table of roles and the files of `deploy/nats` agree with what the services say."""

import importlib
import importlib.util
import inspect
import pkgutil

from tests.bus.deployed import DEPLOY
from tests.bus.permissions.users import each_service
from twd.bus.key_permissions import Credential, permissions_of
from twd.bus.permissions import LIFE, REGISTRY, ROLE_NAMES, ROLES, BusRole
from twd.kit.service import LEASE_BUCKET, Service


def test_every_role_of_the_table_can_have_a_key() -> None:
    assert len(set(ROLE_NAMES)) == len(ROLES) + 1
    for role in ROLE_NAMES:
        for allowed in (permissions_of(Credential(role, "m")), permissions_of(Credential(role, "m", ("a", "b")))):
            assert len(set(allowed.publish)) == len(allowed.publish)
            assert all(subject and " " not in subject for subject in allowed.publish)


def test_no_role_may_use_jetstream_or_answer_whoever_a_message_names() -> None:
    for role in ROLES:
        allowed = permissions_of(Credential(role.name, "m"))
        assert not [subject for subject in allowed.publish if subject.startswith(("$JS", ">", "*"))]
    assert "allow_responses" not in (DEPLOY / "nats-server.conf").read_text()


def test_the_table_agrees_with_the_kit() -> None:
    assert REGISTRY == LEASE_BUCKET
    assert set(LIFE) == set(Service.ALWAYS_WRITES)


def services_of(role: str) -> list[type[Service]]:
    """The service of a role, and the kinds of it that its room knows besides."""
    elsewhere = {"supervisor": ["twd.supervisor.service"], "relay": ["twd.backends.relay.service"]}
    names = elsewhere.get(role) or modules_of(f"twd.{role}")
    members = [member for name in names for member in vars(importlib.import_module(name)).values()]
    return [m for m in members if inspect.isclass(m) and issubclass(m, Service) and getattr(m, "name", "") == role]


def modules_of(room: str) -> list[str]:
    found = importlib.util.find_spec(room)
    if found is None or found.submodule_search_locations is None:
        return []
    return [module.name for module in pkgutil.walk_packages(found.submodule_search_locations, f"{room}.")]


@each_service
def test_the_table_says_what_the_services_say(role: BusRole) -> None:
    services = services_of(role.name)
    if services:
        writes, reads = ({event for one in services for event in getattr(one, kind)} for kind in ("writes", "reads"))
        assert writes == set(role.writes), f"correct the row of {role.name} in twd/bus/permissions.py"
        assert reads == set(role.reads), f"correct the row of {role.name} in twd/bus/permissions.py"
