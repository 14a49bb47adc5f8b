"""`twd chat` against a real edge whose speculator is scripted, and at a real terminal."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from aiohttp import web

from tests.edge.conftest import House, OpenHouse, mode, open_house
from tests.edge.fake_speculator import Script
from twd.cli.app import run
from twd.cli.chat.client import ChatClient, refusal
from twd.cli.chat.conversation import ChatTurn, Conversation
from twd.cli.chat.repl import Repl
from twd.cli.chat.screen import Screen
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


# -- one question ------------------------------------------------------------------------------


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


# -- what can go wrong -------------------------------------------------------------------------


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


# -- a conversation ----------------------------------------------------------------------------


@dataclass
class Fingers:
    """Types what a test wants typed; an exception is a key that people press."""

    keys: list[str | BaseException]
    kept: int = 0
    half: bool = False
    """Whether the last Ctrl-C, which says so, found a line that was begun."""
    prompts: list[str] = field(default_factory=list)

    def line(self, prompt: str) -> str:
        self.prompts.append(prompt)
        key = self.keys.pop(0)
        if isinstance(key, BaseException):
            self.half = bool(key.args)
            raise key
        return key

    def begun(self) -> bool:
        return self.half

    def keep(self) -> None:
        self.kept += 1


async def converse(
    house: House, *keys: str | BaseException, talk: Conversation | None = None
) -> tuple[ExitCode, Conversation, Fingers]:
    talk = talk or Conversation()
    fingers = Fingers([*keys, EOFError()])

    def chat() -> ExitCode:
        with asyncio.Runner() as runner:
            client = ChatClient(ApiAddress(house.edge.url))
            try:
                return Repl(runner, client, talk, Screen(terminal=True), fingers).run()
            finally:
                runner.run(client.close())

    async with asyncio.timeout(20):
        return await asyncio.to_thread(chat), talk, fingers


async def test_a_conversation(open_house: OpenHouse, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    house = await open_house()
    saved = tmp_path / "talk.json"
    end, talk, fingers = await converse(
        house, "/system be kind", "hi \\", "there", "", "more", "/retry", f"/save {saved}", f"/save {saved}", "/quit"
    )
    assert end is ExitCode.OK
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2
    assert talk.turns[0] == ChatTurn("user", "hi \nthere")
    assert fingers.prompts[2] == "… "
    assert len(house.speculator.jobs) == 3
    last = house.speculator.jobs[-1].prompt.messages
    assert last is not None
    assert [message.content for message in last] == ["be kind", "hi \nthere", TEXT, "more"]
    told = capfd.readouterr()
    assert told.out.count("7 tokens") == 3
    assert "exists; name another file" in told.err
    assert json.loads(saved.read_text())["messages"][1]["content"] == TEXT
    assert saved.stat().st_mode & 0o777 == 0o600


async def test_commands_of_a_conversation(open_house: OpenHouse, capfd: pytest.CaptureFixture[str]) -> None:
    house = await open_house()
    commands = ["/help", "/model", "/model small", "/model nope", "/direct", "hi", "/direct", "/compare", "hi", "/new"]
    end, talk, _ = await converse(
        house, *commands, "/retry", "/nope", "/save", "/save ~no-such-user/x", "/save " + "x" * 300, "/system off"
    )
    assert end is ExitCode.OK
    assert talk.model == "small"
    assert talk.turns == []
    assert [job.speculation.enabled for job in house.speculator.jobs] == [False, True, False]
    told = capfd.readouterr()
    assert "same text" in told.out
    for words in (
        "there is no model 'nope'",
        "no question to ask again",
        "there is no /nope",
        "name a file",
        "~no-such-user/x cannot be written",
    ):
        assert words in told.err


async def test_a_trouble_does_not_end_a_conversation(open_house: OpenHouse, capfd: pytest.CaptureFixture[str]) -> None:
    house = await open_house(Script(fail_after=2))
    end, talk, _ = await converse(house, "hi", "/retry")
    assert end is ExitCode.OK
    assert talk.turns[-1] == ChatTurn("assistant", "Hello")
    assert capfd.readouterr().err.count("broke off") == 2


async def test_ctrl_c_at_the_prompt_leaves_at_the_second(open_house: OpenHouse) -> None:
    house = await open_house()
    end, _, fingers = await converse(
        house, '"""begun', KeyboardInterrupt(), "hi", KeyboardInterrupt(), KeyboardInterrupt()
    )
    assert end is ExitCode.INTERRUPTED
    assert fingers.prompts == ["> ", "… ", "> ", "> ", "> "]
    assert len(house.speculator.jobs) == 1


async def test_ctrl_c_in_a_begun_line_only_clears_it(open_house: OpenHouse) -> None:
    house = await open_house()
    end, _, fingers = await converse(
        house, KeyboardInterrupt(), KeyboardInterrupt("half"), KeyboardInterrupt(), "/quit"
    )
    assert end is ExitCode.OK
    assert fingers.prompts == ["> "] * 4


# -- at a real terminal ------------------------------------------------------------------------


@dataclass
class Terminal:
    """A process at a terminal of its own."""

    process: asyncio.subprocess.Process
    master: int
    seen: bytes = b""

    async def until(self, words: bytes) -> None:
        """Wait for words that come after those that were waited for before."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while words not in self.seen:
                self.seen += await loop.run_in_executor(None, os.read, self.master, 65536)
        self.seen = self.seen.split(words, 1)[1]

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    async def leave(self) -> int:
        """Press Ctrl-C at a prompt, and again while nothing comes of it: Python's `input` misses a signal that comes
        after the prompt was written and before it waits for keys."""
        async with asyncio.timeout(20):
            while True:
                self.type(b"\x03")
                with suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(self.process.wait()), 1.0)


async def test_ctrl_c_stops_an_answer_and_its_job(open_house: OpenHouse, own_home: Path) -> None:
    house = await open_house(Script(hang_after=2))
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "twd", "chat", "--url", house.edge.url, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, preexec_fn=lambda: _take_terminal(slave), cwd=Path(__file__).parents[3],
    )  # fmt: skip
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        await terminal.until(b"small at http://")
        await terminal.until(b"> ")
        terminal.type(b"what is it?\n")
        await terminal.until(b"Hello")
        terminal.type(b"\x03")
        await terminal.until(b"stopped; `twd trace job-")
        async with asyncio.timeout(5):
            await house.speculator.cancel_heard.wait()
        await terminal.until(b"> ")
        assert await terminal.leave() == ExitCode.INTERRUPTED
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)
    history = own_home / "chat_history"
    assert "what is it?" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def _take_terminal(slave: int) -> None:
    import fcntl
    import signal
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who runs in the background hands on that Ctrl-C is ignored
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
