"""Who may join: every way in which a token ends, names and keys that are taken, and what a machine may then do."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bus.join import token_id
from twd.bus.seeds import draw_raw, public_key_of, seed_of
from twd.membership.core import (
    MACHINES_MAX,
    TOKENS_MAX,
    TOLD_MS,
    Members,
    NotAdmitted,
    TokenRecord,
    admit,
    users_of,
    with_token,
    without_machine,
    without_token,
)
from twd.membership.roles import ALL_BUS_ROLES, JOIN_ROLES, JOINER, bus_roles
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.node import JoinRequested

NOW = 1_000_000_000
HOUR = 3_600_000


def a_key() -> str:
    return public_key_of(seed_of(draw_raw()))


def asks(node: str = "second", **changed: Any) -> JoinRequested:
    keys = {role: a_key() for role in ALL_BUS_ROLES}
    return msgspec.structs.replace(JoinRequested(node=NodeId(node), keys=keys), **changed)


def a_token(uses: int = 1, **changed: Any) -> TokenRecord:
    made = TokenRecord(public_key=a_key(), roles=("machine",), created_ms=NOW, expires_ms=NOW + HOUR, uses=uses)
    return msgspec.structs.replace(made, **changed)


def members(*tokens: TokenRecord) -> Members:
    return Members(tokens=tokens)


def test_a_machine_gets_the_keys_of_its_roles_and_no_others() -> None:
    token, asked = a_token(roles=("drafter", "edge")), asks()
    after, machine = admit(members(token), token.id, asked, ["first"], NOW)
    assert set(machine.keys) == {"member", "supervisor", "status", "drafter", "edge", "metrics"}
    assert after.named("second") == machine
    assert after.tokens[0].used_by == ("second",)
    users = {(one.role, one.machine): key for key, one in users_of(after, NOW)}
    assert users.pop((JOINER, token.id)) == token.public_key
    assert users == {(role, "second"): asked.keys[role] for role in machine.keys}


def test_no_role_of_a_token_may_decide_for_the_installation() -> None:
    mighty = {"admin", "coordinator", "membership", "watcher", JOINER}
    assert not mighty & set(bus_roles(JOIN_ROLES))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"expires_ms": NOW}, "expired 0 minutes ago"),
        ({"expires_ms": NOW - 2 * HOUR}, "expired 120 minutes ago"),
        ({"used_by": ("other",)}, "used up, by other"),
        ({"revoked": True}, "was revoked"),
    ],
)
def test_a_token_that_ended_lets_nobody_in_and_says_why(changed: dict[str, Any], told: str) -> None:
    token = a_token(**changed)
    with pytest.raises(NotAdmitted, match=told):
        admit(members(token), token.id, asks(), [], NOW)


def test_a_token_is_for_as_many_machines_as_it_says() -> None:
    token = a_token(uses=2)
    after = members(token)
    for node in ("one", "two"):
        after = admit(after, token.id, asks(node), [], NOW).members
    with pytest.raises(NotAdmitted, match="used up, by one, two"):
        admit(after, token.id, asks("three"), [], NOW)


def test_who_did_not_hear_the_answer_asks_again_for_nothing() -> None:
    token, asked = a_token(), asks()
    after = admit(members(token), token.id, asked, [], NOW).members
    assert admit(after, token.id, asked, [], NOW + 2 * HOUR).members == after


def test_the_clock_of_who_joins_does_not_matter() -> None:
    token = a_token()
    for wrong in (0, NOW * 1000):
        assert admit(members(token), token.id, asks(at_ms=wrong), [], NOW).machine.joined_ms == NOW


def test_two_machines_of_one_name() -> None:
    token = a_token(uses=9)
    after = admit(members(token), token.id, asks("twin"), ["first"], NOW).members
    for name in ("twin", "first"):
        with pytest.raises(NotAdmitted, match="twd node remove"):
            admit(after, token.id, asks(name), ["first"], NOW)
    assert after.tokens[0].used_by == ("twin",), "who is refused uses nothing up"


def test_the_same_machine_joins_with_a_new_token_and_other_rights() -> None:
    old, new, asked = a_token(), a_token(roles=("drafter",)), asks()
    after = admit(members(old, new), old.id, asked, [], NOW).members
    after, machine = admit(after, new.id, asked, [], NOW)
    assert machine.roles == ("drafter",)
    assert after.machines == (machine,)


def test_keys_of_another_machine_are_refused() -> None:
    token, asked = a_token(uses=9), asks()
    after = admit(members(token), token.id, asked, [], NOW).members
    with pytest.raises(NotAdmitted, match="a key that is in use"):
        admit(after, token.id, asks("third", keys=asked.keys), [], NOW)
    one = a_key()
    with pytest.raises(NotAdmitted, match="a key that is in use"):
        admit(after, token.id, asks("third", keys=dict.fromkeys(ALL_BUS_ROLES, one)), [], NOW)


@pytest.mark.parametrize("node", ["", "a b", "x\n}", "A", "a.b", "a" * 64, '"'])
def test_a_name_that_would_say_more_in_the_brokers_file_is_refused(node: str) -> None:
    token = a_token()
    with pytest.raises(NotAdmitted, match="no usable name"):
        admit(members(token), token.id, asks(node), [], NOW)


@pytest.mark.parametrize("keys", [{}, {"agent": "SU" + "A" * 54}, dict.fromkeys(ALL_BUS_ROLES, "U} #")])
def test_what_is_no_key_is_refused(keys: dict[str, str]) -> None:
    token = a_token()
    with pytest.raises(NotAdmitted, match="not a key for each role"):
        admit(members(token), token.id, asks(keys=keys), [], NOW)


def test_a_token_that_nobody_knows() -> None:
    with pytest.raises(NotAdmitted, match="not known here"):
        admit(Members(), "aaaaaaaa", asks(), [], NOW)


def test_a_revoked_token_may_not_even_sign_in_and_one_that_ended_may_for_a_week() -> None:
    token = a_token()
    assert list(users_of(members(token), NOW + HOUR + TOLD_MS - 1))
    assert not list(users_of(members(token), NOW + HOUR + TOLD_MS))
    revoked = without_token(members(token), token.id, NOW)
    assert not list(users_of(revoked, NOW))
    with pytest.raises(TwdError, match="valid: none"):
        without_token(revoked, token.id, NOW)


def test_what_is_remembered_is_bounded() -> None:
    old = a_token(expires_ms=NOW - TOLD_MS)
    full = members(old, *(a_token() for _ in range(TOKENS_MAX - 1)))
    more = with_token(full, a_token(), NOW)
    assert len(more.tokens) == TOKENS_MAX
    assert old not in more.tokens
    with pytest.raises(TwdError, match="twd token revoke"):
        with_token(more, a_token(), NOW)
    token = a_token()
    crowd = admit(members(token), token.id, asks(), [], NOW).members.machines * MACHINES_MAX
    with pytest.raises(NotAdmitted, match="which is the most"):
        admit(Members(tokens=(a_token(), token), machines=crowd), token.id, asks("one-more"), [], NOW - 1)


def test_a_removed_machine_has_no_user_left() -> None:
    token = a_token()
    after = without_machine(admit(members(token), token.id, asks(), [], NOW).members, "second")
    assert [one.role for _, one in users_of(after, NOW)] == [JOINER]
    with pytest.raises(TwdError, match="these did: none"):
        without_machine(after, "second")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_whatever_comes_and_goes_no_two_users_share_a_key(steps: list[tuple[str, bool]]) -> None:
    token = a_token(uses=1000)
    now = members(token)
    for node, comes in steps:
        try:
            now = admit(now, token.id, asks(node), [], NOW).members if comes else without_machine(now, node)
        except TwdError:
            continue
        keys = [key for key, _ in users_of(now, NOW)]
        assert len(keys) == len(set(keys))
        assert len({one.node for one in now.machines}) == len(now.machines)


def test_a_tokens_name_follows_from_its_key() -> None:
    token = a_token()
    assert token.id == token_id(token.public_key)
