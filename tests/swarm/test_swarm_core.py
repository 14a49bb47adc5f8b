"""The picker: rarest first, everybody busy, nobody asked in vain, and an end wherever an honest holder lives."""

import random

from hypothesis import given
from hypothesis import strategies as st

from twd.swarm.core import COPIES_MAX, HUNG_S, LATE_S, RUN_MAX, SILENT_S, SOURCES_MAX, Picker, Request

MIB = 1 << 20


def sampler(units: int, parallel: int = 4, seed: int = 0) -> Picker:
    return Picker(units, MIB, range(units), random.Random(seed).randrange, parallel=parallel)


def deliver(one: Picker, request: Request, now: float = 0.1) -> None:
    for index in list(request.open):
        one.came(request, now)
        one.got(index)
    one.over(request)


def test_the_rarest_unit_is_asked_for_first() -> None:
    one = sampler(10, parallel=1)
    for name in "abc":
        one.join(name)
        one.tell(name, [index for index in range(10) if index != 7 or name == "c"])
    assert [request.first for request in one.decide(0.0) if request.source == "c"] == [7]


def test_what_is_on_its_way_to_others_is_not_rare() -> None:
    one = sampler(2, parallel=1)
    one.join("seeder")
    one.tell("seeder", [0, 1])
    one.join("peer")
    one.tell("peer", coming=[0])
    (request,) = one.decide(0.0)
    assert (request.source, request.first) == ("seeder", 1)


def test_every_source_has_something_to_do() -> None:
    one = sampler(100, parallel=2)
    for name in "abcde":
        one.join(name)
        one.tell(name, range(100))
    assert sorted(request.source for request in one.decide(0.0)) == list("abcde")
    assert not one.decide(0.0)


def test_few_are_asked_of_many() -> None:
    one = sampler(1000)
    for number in range(100):
        one.join(str(number))
        one.tell(str(number), range(1000))
    assert len(one.decide(0.0)) == SOURCES_MAX


def test_ties_are_broken_at_random() -> None:
    firsts = set()
    for seed in range(20):
        one = sampler(1000, parallel=1, seed=seed)
        one.join("a")
        one.tell("a", range(1000))
        firsts.add(one.decide(0.0)[0].first)
    assert len(firsts) > 10


def test_quick_sources_get_longer_requests() -> None:
    one = sampler(10_000, parallel=1)
    one.join("a")
    one.tell("a", range(10_000))
    (request,) = one.decide(0.0)
    assert request.count == 1
    one.came(request, 0.001)
    one.got(request.first)
    one.over(request)
    (request,) = one.decide(0.002)
    assert request.count == RUN_MAX


def test_a_unit_that_is_hashed_is_not_asked_for_again() -> None:
    one = sampler(1)
    one.join("a")
    one.tell("a", [0])
    (request,) = one.decide(0.0)
    one.came(request, 0.1)
    one.over(request)
    assert not one.decide(0.2)
    one.wrong(0)
    assert one.decide(0.3)


def test_at_the_end_others_are_asked_for_the_same_unit() -> None:
    one = sampler(1, parallel=4)
    for name in "abc":
        one.join(name)
        one.tell(name, [0])
    asked = one.decide(0.0)
    assert len(asked) == 1
    assert not one.decide(LATE_S / 2), "what comes in time comes once"
    asked += one.decide(LATE_S)
    assert len(asked) == COPIES_MAX
    assert len({request.source for request in asked}) == COPIES_MAX
    assert not one.decide(2 * LATE_S)


def test_a_silent_source_costs_two_seconds() -> None:
    one = sampler(4, parallel=1)
    one.join("dead")
    one.tell("dead", range(4))
    (request,) = one.decide(0.0)
    one.join("alive")
    one.tell("alive", range(4))
    assert not one.hung(SILENT_S + 0.1)
    again = one.decide(SILENT_S + 0.1)
    assert {each.source for each in again} == {"alive"}
    assert one.hung(HUNG_S + 0.1)[0] is request


def test_a_banned_source_stays_out() -> None:
    one = sampler(1)
    one.join("a")
    one.tell("a", [0])
    assert one.ban("a", "wrong bytes")
    assert not one.ban("a", "again")
    one.join("a")
    one.tell("a", [0])
    assert not one.decide(0.0)


def test_a_source_that_fails_rests() -> None:
    one = sampler(1)
    one.join("a")
    one.tell("a", [0])
    (request,) = one.decide(0.0)
    one.failed(request, 0.0)
    assert not one.decide(0.5)
    assert one.decide(1.1)


def test_unknown_hashes_come_from_those_that_define_them_alone() -> None:
    one = Picker(4, MIB, range(4), random.Random(0).randrange, known=[])
    one.join("peer")
    one.tell("peer", range(4))
    assert not one.decide(0.0)
    one.join("hub", defines=True)
    one.tell("hub", range(4))
    assert {request.source for request in one.decide(0.0)} == {"hub"}
    one.hashed(3)
    one.leave("hub")
    assert [request.first for request in one.decide(0.0)] == [3]


def hub_and_peer(peer_has: int) -> Picker:
    one = sampler(8, parallel=2)
    one.join("hub", defines=True)
    one.tell("hub", range(8))
    one.join("peer")
    one.tell("peer", range(peer_has))
    return one


def test_a_hub_is_asked_only_for_what_no_machine_has() -> None:
    one, now, by_hub = hub_and_peer(6), 0.0, set[int]()
    while one.left:
        for request in one.decide(now):
            if request.source == "hub":
                by_hub |= set(request.open)
            deliver(one, request, now)
        now += LATE_S
    assert by_hub == {6, 7}


def test_the_hub_is_needed_for_what_no_machine_sends() -> None:
    one = sampler(4)
    assert one.needs_hub(0.0)
    one.join("machine")
    one.tell("machine", [0, 1, 2])
    assert one.needs_hub(0.0)
    one.tell("machine", [3])
    assert not one.needs_hub(0.0)
    requests = one.decide(0.0)
    assert not one.needs_hub(0.0)
    assert one.needs_hub(SILENT_S)
    one.failed(requests[0], 0.1)
    assert one.needs_hub(0.1)


def test_the_hub_is_needed_where_no_hash_is_known() -> None:
    one = Picker(2, MIB, range(2), random.Random(0).randrange, known=[0])
    one.join("machine")
    one.tell("machine", [0, 1])
    assert one.needs_hub(0.0)
    one.hashed(1)
    assert not one.needs_hub(0.0)


def test_a_hub_is_asked_where_a_machine_fails() -> None:
    one = hub_and_peer(8)
    (request,) = one.decide(0.0)
    assert request.source == "peer"
    one.failed(request, 0.0)
    assert {each.source for each in one.decide(0.0)} == {"hub"}


def test_a_hub_helps_a_machine_that_is_slow() -> None:
    one = hub_and_peer(8)
    one.parallel = 3
    slow = one.decide(0.0)
    assert {each.source for each in slow} == {"peer"}
    assert not one.decide(SILENT_S - 0.1)
    for request in slow:
        one.heard(request, SILENT_S)
    (copy,) = one.decide(SILENT_S)
    assert copy.source == "hub"
    assert any(set(copy.open) <= set(request.open) for request in slow)


# -- worlds ------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_worlds_with_churn_end_where_an_honest_holder_lives(seed: int) -> None:
    """Sources come, go, fail, lie and fall silent; one of them, perhaps a hub, has all and always comes back."""
    chance = random.Random(seed)
    units = chance.randint(1, 60)
    one = sampler(units, chance.randint(1, 8), seed)
    names = [f"s{number}" for number in range(chance.randint(1, 8))]
    liars = {name for name in names if chance.random() < 0.3}
    hub = chance.random() < 0.5
    running: list[Request] = []
    now = 0.0
    for _ in range(20_000):
        if not one.left:
            break
        now += chance.choice((0.01, 0.1, 1.0))
        if chance.random() < 0.2:
            name = chance.choice(names)
            if chance.random() < 0.5:
                one.leave(name)
            one.join(name)
            one.tell(name, chance.sample(range(units), chance.randint(0, units)))
        one.join("honest", defines=hub)
        one.tell("honest", range(units))
        for request in one.hung(now):
            one.failed(request, now)
        running = [each for each in running if each.source in one.sources and each in one.sources[each.source].requests]
        running += one.decide(now)
        check_counts(one)
        if running:
            step(one, chance.choice(running), liars, chance, now)
    assert not one.left
    assert "honest" not in one.banned
    assert set(one.banned) <= liars


def step(one: Picker, request: Request, liars: set[str], chance: random.Random, now: float) -> None:
    """What happens to a request: a unit comes, right or wrong, or it fails."""
    if chance.random() < 0.1:
        one.failed(request, now)
        return
    index = request.first + request.done
    one.came(request, now)
    if request.source in liars and chance.random() < 0.3:
        one.wrong(index)
        one.ban(request.source, "wrong")
        return
    one.got(index)
    if not request.open:
        one.over(request)


def check_counts(one: Picker) -> None:
    """What the picker counts is what there is."""
    asked = [0] * one.units
    for source in one.sources.values():
        for request in source.requests:
            for index in () if request.silent else request.open:
                asked[index] += 1
    assert list(one._asked) == asked
    for index in range(one.units):
        holders = sum(bool(source.have[index] or source.coming[index]) for source in one.sources.values())
        assert one._holders[index] == holders
