"""An installation is ready when its drafters are measured; the wait has an end."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from twd.kit.clock import LoopClock
from twd.supervisor.first_trials import ATTACH_S, TRIALS_S, FirstTrials
from twd.wire.base import InstanceId

D1, D2 = InstanceId("drafter.desk.1"), InstanceId("drafter.desk.2")


def test_nothing_is_waited_for_where_no_drafter_is_expected() -> None:
    assert FirstTrials(expected=False).over(0)


def test_drafters_have_a_moment_to_attach() -> None:
    trials = FirstTrials(expected=True)
    assert not trials.over(0)
    assert trials.over(ATTACH_S)


def test_a_trial_is_waited_for_until_it_ends() -> None:
    trials = FirstTrials(expected=True)
    trials.attached(D1)
    trials.attached(D2)
    trials.checked(D1)
    assert not trials.over(ATTACH_S)
    trials.checked(D2)
    assert trials.over(ATTACH_S)


def test_a_drafter_that_was_measured_and_attaches_again_is_not_waited_for() -> None:
    trials = FirstTrials(expected=True)
    trials.checked(D1)
    trials.attached(D1)
    assert trials.over(ATTACH_S)


def test_a_drafter_that_left_is_not_waited_for() -> None:
    trials = FirstTrials(expected=True)
    trials.attached(D1)
    trials.left(D1)
    assert trials.over(ATTACH_S)


async def test_the_wait_ends_with_the_last_trial() -> None:
    trials = FirstTrials(expected=True)
    trials.attached(D1)
    asyncio.get_running_loop().call_soon(trials.checked, D1)
    async with asyncio.timeout(TRIALS_S - 1):
        await trials.end(LoopClock())


@given(st.lists(st.tuples(st.sampled_from(["attached", "checked", "left"]), st.sampled_from([D1, D2])), max_size=20))
def test_whatever_drafters_do_the_wait_ends(happened: list[tuple[str, InstanceId]]) -> None:
    trials = FirstTrials(expected=True)
    for what, drafter in happened:
        getattr(trials, what)(drafter)
    assert trials.over(TRIALS_S)
