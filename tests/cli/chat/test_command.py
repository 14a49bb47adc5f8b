"""`twd chat` against a real edge whose speculator is scripted."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from aiohttp import web

from tests.edge.conftest import OpenHouse, mode, open_house
from tests.edge.fake_speculator import Script
from twd.cli.app import run
from twd.cli.chat.client import ChatClient, refusal
from twd.cli.chat.conversation import Conversation
from twd.cli.common.api_address import ApiAddress, base_of
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.wire.failures import Failure, FailureCode

__all__ = ["mode", "open_house"]
TEXT = "Hello, wörld 👋!"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


async def twd(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = b"") -> int:
    """Run a command line as if this were its process."""
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
    async with asyncio.timeout(20):
        return await asyncio.to_thread(run, list(arguments))


async def test_one_answer_is_bare_in_a_pipe(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = await open_house()
    options = ("--system", "be brief", "--temperature", "0", "--max-tokens", "50", "--seed", "9", "-m", "small")
    assert await twd(monkeypatch, "chat", "say hello", "--url", house.edge.url, *options, stdin=b"to the world\n") == 0
    told = capfd.readouterr()
    assert (told.out, told.err) == (TEXT + "\n", "")
    job = house.speculator.jobs[0]
    assert job.prompt.messages is not None
    assert [message.content for message in job.prompt.messages] == ["be brief", "say hello\n\nto the world"]
    assert (job.sampling.temperature, job.sampling.seed, job.max_tokens) == (0.0, 9, 50)
    assert job.speculation.enabled


async def test_an_answer_without_drafts_as_json(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = await open_house()
    assert await twd(monkeypatch, "chat", "--json", "--direct", "--url", house.edge.url, stdin=b"hi") == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["text"], told["finish_reason"], told["twd"]["mode"]) == (TEXT, "stop", "direct")
    assert told["usage"]["completion_tokens"] == 7
    assert not house.speculator.jobs[0].speculation.enabled


async def test_a_question_is_asked_twice_with_one_seed(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = await open_house()
    assert await twd(monkeypatch, "chat", "hi", "--compare", "--url", house.edge.url) == 0
    told = capfd.readouterr()
    assert told.out == TEXT + "\n"
    assert "same text" in told.err
    drafted, plain = house.speculator.jobs
    assert drafted.sampling == plain.sampling
    assert (drafted.speculation.enabled, plain.speculation.enabled) == (True, False)


async def test_texts_that_differ_are_told(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = await open_house(Script(choose=lambda job: ["a", "b" if job.speculation.enabled else "c"]))
    assert await twd(monkeypatch, "chat", "hi", "--compare", "--json", "--url", house.edge.url) == ExitCode.DIFFERENT
    assert json.loads(capfd.readouterr().out)["equal"] is False


async def test_options_that_make_no_sense(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--compare", "--direct", "x"],
        ["--json"],
        [],
        ["--temperature", "9", "x"],
        ["--temperature", "nan", "x"],
        ["--url", "ftp://x", "x"],
    ):
        assert await twd(monkeypatch, "chat", *arguments) == ExitCode.USAGE
    assert await twd(monkeypatch, "chat", "--url", "http://x", stdin=b"\xff") == ExitCode.USAGE
    assert await twd(monkeypatch, "chat", "x", "--url", "http://x", "--key", "a\nb") == ExitCode.USAGE
    assert await twd(monkeypatch, "chat", "x") == ExitCode.NOTHING_RUNS
    assert "Traceback" not in capfd.readouterr().err


async def ask(url: str, key: str = "", model: str = "default") -> str:
    client = ChatClient(ApiAddress(url, key))
    talk = Conversation(model)
    talk.ask("hi")
    try:
        async with asyncio.timeout(10):
            return (await client.ask(talk.request(False, None), lambda text: None)).text
    finally:
        await client.close()


async def test_keys_and_models(open_house: OpenHouse) -> None:
    house = await open_house(token="right")
    assert await ask(house.edge.url, "right") == TEXT
    for key, words in (("", "wants a key"), ("wrong", "refuses this key")):
        with pytest.raises(CommandError, match=words) as error:
            await ask(house.edge.url, key)
        assert error.value.exit_code is ExitCode.USAGE
    with pytest.raises(CommandError, match="known: small") as error:
        await ask(house.edge.url, "right", "nope")
    assert error.value.exit_code is ExitCode.NOT_FOUND


async def test_a_failure_in_the_middle(open_house: OpenHouse) -> None:
    house = await open_house(Script(fail_after=2))
    with pytest.raises(CommandError, match="broke off: no memory left") as error:
        await ask(house.edge.url)
    assert error.value.exit_code is ExitCode.UNHEALTHY


async def test_a_failure_at_once(open_house: OpenHouse) -> None:
    house = await open_house(Script(refuse=Failure(code=FailureCode.CONTEXT_OVERFLOW, message="9 tokens too many")))
    with pytest.raises(CommandError, match="9 tokens too many") as error:
        await ask(house.edge.url)
    assert error.value.exit_code is ExitCode.USAGE


@dataclass
class Stranger:
    """A server that is not twd: it answers with one thing only."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status, body=self.body, headers=self.headers)


STREAM = {"Content-Type": "text/event-stream"}
PLAIN_STREAM = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@contextmanager
def code(expected: ExitCode, words: str) -> Iterator[None]:
    with pytest.raises(CommandError, match=words) as error:
        yield
    assert error.value.exit_code is expected


async def test_servers_that_are_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = Stranger()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stranger.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def meet(*about: object) -> str:
        stranger.status, stranger.body, stranger.headers = about  # type: ignore[assignment]
        return await ask(url)

    try:
        assert await meet(200, PLAIN_STREAM, STREAM) == "hi"
        assert await twd(monkeypatch, "chat", "x", "--compare", "--url", url) == ExitCode.USAGE
        with code(ExitCode.UNHEALTHY, "makes no sense"):
            await meet(200, b"<html>", {"Content-Type": "text/html"})
        with code(ExitCode.UNHEALTHY, "broke off"):
            await meet(200, b": nothing\n\n", STREAM)
        with code(ExitCode.USAGE, "sends its callers to http://elsewhere"):
            await meet(307, b"", {"Location": "http://elsewhere"})
        with code(ExitCode.NOT_FOUND, "no such API"):
            await meet(404, b"<html>", {})
        with code(ExitCode.UNHEALTHY, "status 502"):
            await meet(502, b"[" * 9999, {})
    finally:
        await runner.cleanup()
    with code(ExitCode.NOTHING_RUNS, "nobody answers"):
        await ask(url)


def test_a_refusal_names_its_reason() -> None:
    assert refusal(ApiAddress("http://x"), 503, "nobody", "nobody_home").exit_code is ExitCode.NOTHING_RUNS
    assert refusal(ApiAddress("http://x"), 429, "full", "server_busy").exit_code is ExitCode.UNHEALTHY
    assert str(refusal(ApiAddress("http://x"), 400, "", "")) == "http://x answers with status 400"


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("localhost:8088", "http://localhost:8088"),
        ("https://h:1/v1/", "https://h:1"),
        ("http://h:1/api/v1", "http://h:1/api"),
    ],
)
def test_addresses_as_people_write_them(given: str, base: str) -> None:
    assert base_of(given) == base
