"""Decides who may join and who belongs to the installation: plain values in, plain values out."""

import re
from collections.abc import Collection, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from twd.bus.join import token_id
from twd.bus.key_permissions import Credential
from twd.bus.seeds import PUBLIC_KEY
from twd.membership.roles import JOINER, bus_roles
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import JoinRequested

VERSION: Final = 1
TOKENS_MAX: Final = 256
MACHINES_MAX: Final = 1024
TOLD_MS: Final = 7 * 24 * 3_600_000
"""So long a token that no longer lets anybody in is remembered, so that whoever brings it is told why."""
NODE: Final = re.compile(r"[a-z0-9-]{1,63}")

TokenState = Literal["valid", "used", "expired", "revoked"]


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A join token as the installation keeps it: the public half of its secret alone."""

    public_key: str
    roles: tuple[str, ...]
    created_ms: int
    expires_ms: int
    uses: int
    used_by: tuple[str, ...] = ()
    """The machines that joined with it."""
    ended_ms: int = 0
    """When it was used up or revoked; 0: not yet."""
    revoked: bool = False

    @property
    def id(self) -> str:
        """The token's short name."""
        return token_id(self.public_key)

    def state(self, now_ms: int) -> TokenState:
        """Return whether it lets a machine in now, or why not."""
        if self.revoked:
            return "revoked"
        if len(self.used_by) >= self.uses:
            return "used"
        return "valid" if now_ms < self.expires_ms else "expired"


class JoinedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that joined."""

    node: str
    roles: tuple[str, ...]
    keys: dict[str, str]
    """Role on the bus -> public key."""
    token: str
    """The short name of the token that it brought."""
    joined_ms: int


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """All tokens and machines of an installation."""

    version: int = VERSION
    tokens: tuple[TokenRecord, ...] = ()
    machines: tuple[JoinedMachine, ...] = ()

    def named(self, node: str) -> JoinedMachine | None:
        """Return the machine with this name, or None."""
        return next((one for one in self.machines if one.node == node), None)


class Admission(NamedTuple):
    """The members after a machine was let in, and that machine."""

    members: Members
    machine: JoinedMachine


class NotAdmitted(TwdError):
    """A machine may not join; the message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureCode.FORBIDDEN, message)


def with_token(members: Members, token: TokenRecord, now_ms: int) -> Members:
    """Add a token, and forget those that ended long ago."""
    kept = tuple(one for one in members.tokens if now_ms < _ended_ms(one) + TOLD_MS)
    if len(kept) >= TOKENS_MAX:
        raise TwdError(FailureCode.BAD_REQUEST, f"there are {len(kept)} tokens already; `twd token revoke` ends some")
    return msgspec.structs.replace(members, tokens=(*kept, token))


def _ended_ms(token: TokenRecord) -> int:
    return token.ended_ms or token.expires_ms


def without_token(members: Members, name: str, now_ms: int) -> Members:
    """Revoke a token; who joined with it stays."""
    found = next((one for one in members.tokens if one.id == name and not one.revoked), None)
    if found is None:
        known = ", ".join(one.id for one in members.tokens if one.state(now_ms) == "valid") or "none"
        raise TwdError(FailureCode.BAD_REQUEST, f"there is no token {name!r}; valid: {known}")
    return _replaced(members, msgspec.structs.replace(found, revoked=True, ended_ms=now_ms))


def _replaced(members: Members, token: TokenRecord) -> Members:
    tokens = tuple(token if one.public_key == token.public_key else one for one in members.tokens)
    return msgspec.structs.replace(members, tokens=tokens)


def admit(members: Members, name: str, asked: JoinRequested, own: Collection[str], now_ms: int) -> Admission:
    """Let a machine in that signed in with the token `name`; raises NotAdmitted. `own`: names of the broker's machine.

    A machine that asks again with the same keys, because it did not hear the answer, is let in again for nothing.
    """
    token = next((one for one in members.tokens if one.id == name), None)
    if token is None:
        raise NotAdmitted("this token is not known here; `twd token add` makes another one")
    machine = _machine(token, asked, now_ms)
    before = members.named(asked.node)
    again = before is not None and _is_same(before, machine)
    if again and before is not None and before.token == machine.token:
        return Admission(members, before)
    _check_token(token, now_ms)
    if asked.node in own or (before is not None and not again):
        text = f"there is a machine named {asked.node} already. Give this one another name, as TWD_NODE"
        raise NotAdmitted(f"{text}; or, if it is the same one set up anew, first `twd node remove {asked.node}` there")
    others = tuple(one for one in members.machines if one.node != machine.node)
    _check_new(others, machine)
    used_by = (*token.used_by, machine.node)
    ended_ms = now_ms if len(used_by) >= token.uses else 0
    members = _replaced(members, msgspec.structs.replace(token, used_by=used_by, ended_ms=ended_ms))
    return Admission(msgspec.structs.replace(members, machines=(*others, machine)), machine)


def _is_same(before: JoinedMachine, machine: JoinedMachine) -> bool:
    """Whether a machine of this name brings the keys that it brought before."""
    shared = before.keys.keys() & machine.keys.keys()
    return bool(shared) and all(before.keys[role] == machine.keys[role] for role in shared)


def _machine(token: TokenRecord, asked: JoinRequested, now_ms: int) -> JoinedMachine:
    roles = bus_roles(token.roles)
    keys = {role: asked.keys.get(role, "") for role in roles}
    if not NODE.fullmatch(asked.node) or not all(map(PUBLIC_KEY.fullmatch, keys.values())):
        raise NotAdmitted(
            "the machine gives no usable name, or not a key for each role; is its twd of another version?"
        )
    return JoinedMachine(node=asked.node, roles=token.roles, keys=keys, token=token.id, joined_ms=now_ms)


def _check_token(token: TokenRecord, now_ms: int) -> None:
    match token.state(now_ms):
        case "revoked":
            raise NotAdmitted(f"the token {token.id} was revoked; `twd token add` makes another one")
        case "used":
            raise NotAdmitted(
                f"the token {token.id} is used up, by {', '.join(token.used_by)}; `twd token add` makes more"
            )
        case "expired":
            minutes = (now_ms - token.expires_ms) // 60_000
            raise NotAdmitted(f"the token {token.id} expired {minutes} minutes ago; `twd token add` makes another one")


def _check_new(others: Collection[JoinedMachine], machine: JoinedMachine) -> None:
    """Refuse keys that are another's: the broker would take its list of users no longer."""
    known = {key for one in others for key in one.keys.values()}
    if len(set(machine.keys.values())) < len(machine.keys) or known & set(machine.keys.values()):
        raise NotAdmitted("the machine brings a key that is in use; is its state folder a copy of another machine's?")
    if len(others) >= MACHINES_MAX:
        raise NotAdmitted(f"{len(others)} machines belong to this installation, which is the most")


def without_machine(members: Members, node: str) -> Members:
    """Remove a machine; raises TwdError where there is none of this name."""
    if members.named(node) is None:
        known = ", ".join(one.node for one in members.machines) or "none"
        raise TwdError(FailureCode.BAD_REQUEST, f"no machine named {node!r} joined; these did: {known}")
    return msgspec.structs.replace(members, machines=tuple(one for one in members.machines if one.node != node))


def users_of(members: Members, now_ms: int) -> Iterator[tuple[str, Credential]]:
    """Yield the public key of each user besides those of the broker's machine, and what it is for.

    A token that ended lately may still sign in, and be told so; a revoked one may not.
    """
    for token in members.tokens:
        if not token.revoked and now_ms < _ended_ms(token) + TOLD_MS:
            yield token.public_key, Credential(JOINER, token.id)
    for machine in members.machines:
        for role, key in machine.keys.items():
            yield key, Credential(role, machine.node)
