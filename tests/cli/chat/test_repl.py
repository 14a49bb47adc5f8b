"""A conversation with a real edge whose speculator is scripted, and at a real terminal."""

import asyncio
import json
import os
import pty
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.chat.test_command import TEXT, own_home
from tests.edge.conftest import House, OpenHouse, mode, open_house
from tests.edge.fake_speculator import Script
from twd.cli.chat.client import ChatClient
from twd.cli.chat.conversation import ChatTurn, Conversation
from twd.cli.chat.repl import Repl
from twd.cli.chat.screen import Screen
from twd.cli.common.api_address import ApiAddress
from twd.kit.exit_codes import ExitCode

__all__ = ["mode", "open_house", "own_home"]


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
