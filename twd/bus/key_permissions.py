"""What one key may do: the permissions of its role, with its machine and models filled in.

A subject contains the name of its publisher (`twd/wire/routes.py`), so the permissions of a key contain its own role
and machine, and its models where the subject has one. `deploy/nats/make_keys.py` writes them for a broker.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from twd.bus.base import INBOX_PREFIX
from twd.bus.followed_leases import CLAIMS, ROLL_CALL
from twd.bus.permissions import ADMIN, LIFE, REGISTRY, ROLE_OF, ROLES, BusRole, Events, RegistryAccess
from twd.wire.names import subject_token
from twd.wire.routes import ANYBODY, EVERYTHING, ROUTE_OF, ROUTES, Delivery, Route

ANY_MODEL: Final = "*"
_SHARED: Final = (Delivery.REQUEST, Delivery.DIRECT)
"""Deliveries that not everybody may hear: they may hold prompts and secrets."""


@dataclass(frozen=True)
class Permissions:
    """Subjects on which a user may publish and subscribe; a subscription may name its queue group after a space."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_heard: tuple[str, ...] = ()
    """Denied, even if a wildcard includes them."""


@dataclass(frozen=True)
class Credential:
    """What one key is for: a role on a machine, for some models or all."""

    role: str
    machine: str
    models: tuple[str, ...] = (ANY_MODEL,)

    @property
    def origin(self) -> str:
        """The beginning of the subjects of its events, after the event's tag."""
        return f"{self.role}.{subject_token(self.machine)}.*"


def permissions_of(credential: Credential) -> Permissions:
    """Return the permissions of a key: those of its role, with its machine and models filled in."""
    if credential.role == ADMIN:
        return _admin()
    role = ROLE_OF[credential.role]
    return Permissions(
        publish=_unique(_publishes(role, credential)),
        subscribe=_unique(_subscribes(role, credential)),
        never_heard=_not_for_all(role.reads) if role.hears_everything else (),
    )


def _admin() -> Permissions:
    return Permissions(
        publish=(EVERYTHING, "$SRV.>", "$JS.API.>", "$KV.>", ROLL_CALL, f"{INBOX_PREFIX}.>"),
        subscribe=(EVERYTHING, "$SRV.>", "$KV.>", ROLL_CALL, f"{INBOX_PREFIX}.{ADMIN}.>"),
        never_heard=_not_for_all(()),
    )


def _publishes(role: BusRole, credential: Credential) -> Iterator[str]:
    for event in (*role.writes, *(LIFE if role.is_service else ())):
        if ROUTE_OF[event].delivery is not Delivery.REPLY:
            yield from _patterns(ROUTE_OF[event], role, credential, origin=credential.origin)
    for asker in _askers(role):
        yield f"{INBOX_PREFIX}.{asker}.>"
    machine = subject_token(credential.machine)
    if role.is_service:
        yield f"$KV.{REGISTRY}.{role.name}.{machine}.>"
    for key in (*role.keys, *role.claims):
        yield f"$KV.{REGISTRY}.{key.format(machine=machine)}"
    for key in role.claims:
        yield f"$KV.{REGISTRY}{CLAIMS}.{key.format(machine=machine)}"
    if role.registry >= RegistryAccess.READ:
        yield ROLL_CALL
    if role.registry >= RegistryAccess.CLEAR:
        yield f"$KV.{REGISTRY}.*.{machine}.>"
    if role.asks_services:
        yield "$SRV.>"


def _askers(role: BusRole) -> Iterator[str]:
    """Return the roles whose requests this role answers; it may publish to their inboxes, whose names are random."""
    if not role.is_service:
        return
    yield ADMIN
    for other in ROLES:
        asks = any(ROUTE_OF[event].delivery is Delivery.REQUEST and event in role.reads for event in other.writes)
        if asks or other.asks_services:
            yield other.name


def _subscribes(role: BusRole, credential: Credential) -> Iterator[str]:
    machine = subject_token(credential.machine)
    for name in (role.name, *role.inboxes):
        yield f"{INBOX_PREFIX}.{name}.{machine}.>"
    if role.hears_everything:
        yield EVERYTHING
    for event in role.reads:
        route = ROUTE_OF[event]
        for to in filter(None, (credential.origin, role.addressed)) if route.to else (ANYBODY,):
            for pattern in _patterns(route, role, credential, to=to):
                yield f"{pattern} {route.group}" if route.group else pattern
    if role.is_service:
        yield ROLL_CALL
        yield f"$KV.{REGISTRY}.{role.name}.{machine}.>"
        yield "$SRV.*"
        yield f"$SRV.*.twd-{role.name}"
        yield f"$SRV.*.twd-{role.name}.*"
    if role.registry >= RegistryAccess.READ:
        yield f"$KV.{REGISTRY}.>"


def _patterns(
    route: Route, role: BusRole, credential: Credential, origin: str = ANYBODY, to: str = ANYBODY
) -> Iterator[str]:
    """Return the subjects of one event that concern a key: its models, and its machine for requests."""
    keys = {}
    if "node" in route.keys and origin == ANYBODY:
        keys["node"] = credential.machine
    by_model = role.of_models and "model" in route.keys
    for model in credential.models if by_model else (ANY_MODEL,):
        of_model = {"model": model} if model != ANY_MODEL else {}
        yield route.pattern_for(origin, to, **keys, **of_model)


def _not_for_all(read: Events) -> tuple[str, ...]:
    shared = [route for route in ROUTES if route.delivery in _SHARED]
    return tuple(f"{route.tag}.>" for route in shared if route.event not in read)


def _unique(subjects: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects))


def render_user(public_key: str, credential: Credential) -> str:
    """Return one user in the syntax of nats-server's configuration."""
    allowed = permissions_of(credential)
    publish = _list(allowed.publish) if allowed.publish else '{ deny: [">"] }'
    subscribe = _list(allowed.subscribe)
    if allowed.never_heard:
        subscribe = f"{{ allow: {subscribe}, deny: {_list(allowed.never_heard)} }}"
    models = "" if credential.models == (ANY_MODEL,) else f" for {', '.join(credential.models)}"
    return (
        f"# {credential.role} on {credential.machine}{models}\n"
        f"{{ nkey: {public_key}, permissions: {{\n  publish: {publish}\n  subscribe: {subscribe}\n}} }}\n"
    )


def _list(subjects: tuple[str, ...]) -> str:
    return "\n".join(["[", *(f'    "{subject}"' for subject in subjects), "  ]"])
