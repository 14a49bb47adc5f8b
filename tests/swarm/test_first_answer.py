"""Who fails or is late does not hold up the question: the next machine is asked, and the first answer counts."""

import asyncio

import pytest

from twd.swarm.first_answer import AskedMachine, first_answer
from twd.wire.failures import FailureCode, TwdError


async def never() -> str:
    await asyncio.Event().wait()
    return "never"


async def fails() -> str:
    raise TwdError(FailureCode.BACKEND_DOWN, "it is away")


async def broken() -> str:
    raise OSError("broken")


async def told() -> str:
    return "told"


async def test_a_machine_that_is_silent_costs_a_moment() -> None:
    async with asyncio.timeout(10):
        assert (
            await first_answer(
                [AskedMachine(never, 0.01), AskedMachine(fails, 0.01), AskedMachine(never, 0.01), AskedMachine(told)]
            )
            == "told"
        )


async def test_only_the_first_is_asked_where_it_answers() -> None:
    asked = []

    async def second() -> str:
        asked.append("second")
        return "second"

    assert await first_answer([AskedMachine(told), AskedMachine(second)]) == "told"
    assert not asked


async def test_the_last_one_may_take_its_time() -> None:
    answer = asyncio.Event()

    async def slow() -> str:
        await answer.wait()
        return "slow"

    asyncio.get_running_loop().call_later(0.05, answer.set)
    assert await first_answer([AskedMachine(fails), AskedMachine(slow, 0.0)]) == "slow"


async def test_all_causes_are_told() -> None:
    with pytest.raises(TwdError, match="it is away; it is away"):
        await first_answer([AskedMachine(fails), AskedMachine(fails)])
    with pytest.raises(OSError, match="broken"):
        await first_answer([AskedMachine(broken)])
