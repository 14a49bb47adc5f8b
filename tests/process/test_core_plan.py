"""Threads of one computer: texts first, nobody without a thread, the same plan wherever it is made."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.process.core_plan import Engine, EngineRole, plan_cores

PARTS = st.sampled_from(list(EngineRole))


def engine(name: str, part: EngineRole, cores: int = 2, **given: Any) -> Engine:
    return Engine(name=name, part=part, model="m", cores=tuple(range(cores)), room=cores, **given)


def threads(*engines: Engine) -> dict[str, int]:
    return {name: share.threads for name, share in plan_cores(engines).items()}


def test_a_target_and_its_drafter_take_turns_on_all_cores() -> None:
    assert threads(engine("t", EngineRole.TARGET), engine("d", EngineRole.DRAFTER)) == {"t": 2, "d": 2}


@pytest.mark.parametrize(
    ("cores", "stages", "planned"),
    [
        (2, 1, {"s0": 2, "d": 1}),
        (2, 2, {"s0": 1, "s1": 1, "d": 1}),
        (8, 2, {"s0": 4, "s1": 4, "d": 1}),
        (2, 3, {"s0": 1, "s1": 1, "s2": 1, "d": 1}),
    ],
)
def test_a_drafter_beside_stages_has_one_thread(cores: int, stages: int, planned: dict[str, int]) -> None:
    ring = [engine(f"s{number}", EngineRole.STAGE, cores) for number in range(stages)]
    assert threads(*ring, engine("d", EngineRole.DRAFTER, cores)) == planned


def test_workers_take_turns_and_leave_the_drafter_what_is_over() -> None:
    pool = [engine("a", EngineRole.WORKER, 8, asked=3), engine("b", EngineRole.WORKER, 8, asked=5)]
    assert threads(*pool, engine("d", EngineRole.DRAFTER, 8)) == {"a": 3, "b": 5, "d": 3}


def test_a_drafter_takes_turns_with_workers_where_their_pool_is_served() -> None:
    pool = [engine("a", EngineRole.WORKER), engine("b", EngineRole.WORKER), engine("home", EngineRole.RPC_TARGET)]
    assert threads(*pool, engine("d", EngineRole.DRAFTER)) == {"a": 2, "b": 2, "home": 2, "d": 2}
    assert threads(*pool[:2], engine("d", EngineRole.DRAFTER))["d"] == 1


def test_what_the_settings_ask_for_wins() -> None:
    assert threads(engine("s", EngineRole.STAGE, 8, asked=6), engine("d", EngineRole.DRAFTER, 8, asked=7)) == {
        "s": 6,
        "d": 7,
    }


def test_engines_meet_on_cards_and_leave_the_cores_to_others() -> None:
    def on_card(name: str, part: EngineRole, *cards: str) -> Engine:
        return Engine(name=name, part=part, model=name, cards=cards, room=4)

    engines = [
        on_card("t", EngineRole.TARGET, "0000:01:00.0", "0000:02:00.0"),
        on_card("d", EngineRole.DRAFTER, "0000:01:00.0"),
        on_card("e", EngineRole.DRAFTER, "0000:03:00.0"),
        engine("c", EngineRole.TARGET, 4),
    ]
    shares = plan_cores(engines)
    assert {name: share.beside for name, share in shares.items()} == {
        "t": ("drafter d",),
        "d": ("target t",),
        "e": (),
        "c": (),
    }
    assert [shares[name].yields for name in "de"] == [True, False]
    assert [shares[name].on_card for name in "tdec"] == [True, True, True, False]
    assert shares["c"].threads == 4


def test_several_drafters_share() -> None:
    assert threads(
        engine("t", EngineRole.TARGET, 4), engine("d", EngineRole.DRAFTER, 4), engine("e", EngineRole.DRAFTER, 4)
    ) == {
        "t": 4,
        "d": 2,
        "e": 2,
    }


def test_cores_of_its_own_are_nobody_elses_matter() -> None:
    apart = Engine(name="d", part=EngineRole.DRAFTER, cores=(2, 3), room=2)
    shares = plan_cores([engine("s", EngineRole.STAGE), apart])
    assert shares["d"].threads == 2
    assert not shares["d"].yields
    assert not shares["d"].beside


def test_rings_of_two_models_do_not_count_each_other_as_stages() -> None:
    other = Engine(name="o", part=EngineRole.STAGE, model="other", cores=(0, 1), room=2)
    assert threads(engine("s", EngineRole.STAGE), other) == {"s": 2, "o": 2}


ENGINES = st.lists(
    st.tuples(PARTS, st.frozensets(st.integers(0, 7), min_size=1), st.integers(0, 3), st.sampled_from("ab")),
    max_size=8,
).map(
    lambda drawn: [
        Engine(name=str(n), part=part, model=model, cores=tuple(sorted(cores)), room=len(cores), asked=asked)
        for n, (part, cores, asked, model) in enumerate(drawn)
    ]
)


@given(ENGINES, st.randoms())
def test_each_has_a_thread_and_the_order_does_not_matter(engines: list[Engine], random: Any) -> None:
    planned = plan_cores(engines)
    shuffled = list(engines)
    random.shuffle(shuffled)
    assert plan_cores(shuffled) == planned
    for one in engines:
        assert planned[one.name].threads == one.asked or 1 <= planned[one.name].threads <= one.room


@given(ENGINES)
def test_drafters_take_no_threads_from_texts(engines: list[Engine]) -> None:
    """Who computes for texts gets the same with drafters and without them, and drafters alone give way."""
    planned = plan_cores(engines)
    alone = plan_cores([one for one in engines if one.part is not EngineRole.DRAFTER])
    assert {name: share.threads for name, share in planned.items() if name in alone} == {
        name: share.threads for name, share in alone.items()
    }
    assert not any(share.yields for name, share in planned.items() if name in alone)


@given(ENGINES)
def test_one_who_computes_at_any_moment_is_given_way_to(engines: list[Engine]) -> None:
    planned = plan_cores(engines)
    for one in engines:
        if one.part is EngineRole.DRAFTER:
            texts = [o for o in engines if o.part is not EngineRole.DRAFTER and set(o.cores) & set(one.cores)]
            assert planned[one.name].yields is bool(texts)
