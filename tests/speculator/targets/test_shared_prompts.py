"""Questions about one document that come together: it is read once, in one process and over a ring."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.backends.listener import Listener, job
from tests.model_fixtures import model_cache, q4_path
from tests.speculator.targets.test_ring import LAYERS, MODEL, House
from tests.waiting import until
from twd.speculator.targets.native import native_speculator
from twd.wire.job import JobFinished, Prompt, Sampling, Speculation, TokensAccepted

__all__ = ["model_cache", "q4_path"]
DEADLINE_S = 90.0
DOCUMENT = [1000 + 37 * index % 5000 for index in range(200)]
QUESTIONS = [[*DOCUMENT, 2000 + number, 260, 253, 2012] for number in range(4)]


async def asked(listener: Listener, number: int, name: str) -> JobFinished:
    prompt, how = Prompt(tokens=QUESTIONS[number]), Speculation(enabled=number % 2 == 0, recall=False)
    wanted = job(name=name, prompt=prompt, max_tokens=12, sampling=Sampling(), speculation=how)
    await listener.submit(replace(wanted, model=MODEL))
    await until(lambda: bool(listener.ends(name)), timeout_s=60.0)
    end = listener.end(name)
    assert isinstance(end, JobFinished), end
    return end


def tokens(listener: Listener, name: str) -> list[int]:
    return [token for event in listener.of(TokensAccepted, name) for token in event.tokens]


async def together_and_alone(house: House, least: int) -> None:
    """`least`: so few tokens nobody waits for."""
    listener = Listener(house.broker)
    await listener.listen()
    numbers = range(len(QUESTIONS))
    ends = await asyncio.gather(*(asked(listener, number, f"together-{number}") for number in numbers))
    first, *others = sorted(end.stats.cached_tokens for end in ends)
    assert first == 0
    assert all(len(DOCUMENT) - least < cached <= len(DOCUMENT) for cached in others)
    for number in numbers:
        await asked(listener, number, f"alone-{number}")
        assert tokens(listener, f"alone-{number}") == tokens(listener, f"together-{number}")


@pytest.mark.parametrize(
    "ring", [pytest.param(False, id="one process"), pytest.param(True, id="a ring", marks=pytest.mark.thorough)]
)
async def test_what_questions_have_in_common_is_read_once(q4_path: Path, tmp_path: Path, ring: bool) -> None:
    house = House(q4_path, tmp_path, parallel=len(QUESTIONS))
    if not ring:
        house.speculator = native_speculator(house.ctx("home"), house.settings, str(MODEL))
    try:
        async with asyncio.timeout(DEADLINE_S):
            await house.speculator.start()
            if ring:
                await house.stage(0, LAYERS)
            await house.speculator.settled.wait()
            await together_and_alone(house, least=128 if ring else 16)
    finally:
        await house.close()
