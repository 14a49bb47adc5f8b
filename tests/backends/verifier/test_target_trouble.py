"""Servers that fail, hang or cannot score: jobs end with the cause, and the target serves on."""

import asyncio
from typing import Any

import pytest

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.listener import MODEL, job
from tests.backends.rigs import echoing
from tests.backends.verifier.towers import OpenTower, emoji_start, text_of
from tests.waiting import until
from twd.backends.clients.base import Backend
from twd.backends.clients.detection import open_backend
from twd.backends.verifier.model import open_verifying
from twd.settings.model import ServerConfig as ServerSettings
from twd.wire.base import JobId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import (
    JobCancelled,
    JobFinished,
    Speculation,
)


async def test_what_cannot_be_read_ends_its_own_job(open_tower: OpenTower) -> None:
    tower, start = await open_tower(), emoji_start()
    await tower.run(job(start, "warm", max_tokens=60))
    tower.server.faults.mode, tower.server.faults.only = "500", "detokenize"
    for asked in (
        job(start, "emoji", max_tokens=60),
        job(start, "taken-over", max_tokens=60, resume=[TOY.tokenize("z")[0]], attempt=2),
    ):
        _, end = await tower.run(asked)
        assert isinstance(end, Failure)
        assert end.code is FailureCode.BACKEND_BROKEN
    tower.server.faults.mode = ""
    text, _ = await tower.run(job(start, "later", max_tokens=60))
    assert text == TOY.shown(text_of(start))


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("500", FailureCode.BACKEND_BROKEN),
        ("502", FailureCode.BACKEND_DOWN),
        ("hang", FailureCode.DEADLINE),
        ("broken_json", FailureCode.BACKEND_BROKEN),
        ("die", FailureCode.BACKEND_BROKEN),
        ("stall", FailureCode.DEADLINE),
    ],
)
async def test_trouble_ends_a_job_and_not_the_target(open_tower: OpenTower, mode: str, code: FailureCode) -> None:
    silence_ends_it = code is FailureCode.DEADLINE
    tower = await open_tower(timeout_s=2 if silence_ends_it else 20)
    tower.server.faults.mode, tower.server.faults.only = mode, "completions"
    _, end = await tower.run(job("once upon", max_tokens=40))
    assert isinstance(end, Failure)
    assert end.code is code
    tower.server.faults.mode = ""
    text, end = await tower.run(job("once upon", "job-2", max_tokens=40))
    assert isinstance(end, JobFinished)
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 40))


async def test_a_cancelled_session_hangs_up(open_tower: OpenTower) -> None:
    tower = await open_tower(timeout_s=20)
    tower.server.hold_after = 5
    asked = job("once upon", max_tokens=200, speculation=Speculation(enabled=False), deadline_ms=200)
    await tower.ear.submit(asked)
    await until(lambda: tower.server.streaming == 1)
    await until(lambda: bool(tower.ear.ends(asked.job)), timeout_s=10)
    await until(lambda: tower.server.cut_off == 1, "the server would write on for ever", timeout_s=10)


async def test_one_request_that_hangs_holds_up_nobody_else(open_tower: OpenTower) -> None:
    tower = await open_tower(timeout_s=60)
    server = tower.server
    await tower.run(job("once upon", "warm", max_tokens=30))
    server.faults.mode, server.faults.only, server.faults.times = "hang", "completions", 1
    await tower.ear.submit(job("who it", "hung", max_tokens=30))
    await until(lambda: server.streaming == 1)
    text, _ = await tower.run(job("once upon", "other", max_tokens=30))
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 30))
    await tower.ear.publish(JobCancelled(job=JobId("hung"), reason="enough"))
    await until(lambda: bool(tower.ear.ends("hung")), timeout_s=20)
    await until(lambda: server.cut_off == 1, timeout_s=20)


async def test_a_server_that_cannot_score_is_no_target(farm: Farm) -> None:
    server = OpenAiServer()
    await farm.add(server)
    with pytest.raises(TwdError, match="passed through") as caught:
        await asyncio.to_thread(open_verifying, ServerSettings(url=server.url), MODEL)
    assert caught.value.code is FailureCode.UNSUPPORTED
    with pytest.raises(TwdError) as caught:
        await asyncio.to_thread(open_verifying, ServerSettings(url="http://127.0.0.1:9"), MODEL)
    assert caught.value.code is FailureCode.BACKEND_DOWN


async def test_a_server_that_fails_while_it_is_measured_is_hung_up_on(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.add(server := echoing())
    opened: list[Backend] = []

    async def open_and_keep(*args: Any, **options: Any) -> Backend:
        opened.append(await open_backend(*args, **options))
        return opened[-1]

    async def fails(*_: object) -> None:
        raise TwdError(FailureCode.BACKEND_DOWN, "it went away")

    monkeypatch.setattr("twd.backends.verifier.model.open_backend", open_and_keep)
    monkeypatch.setattr("twd.backends.verifier.model.measure", fails)
    with pytest.raises(TwdError, match="it went away"):
        await asyncio.to_thread(open_verifying, ServerSettings(url=server.url), MODEL)
    assert opened[0].upstream._session is None
