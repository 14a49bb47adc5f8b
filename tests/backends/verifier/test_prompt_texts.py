"""The texts of prompts: asked beforehand, told at once or not at all."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from tests.waiting import until
from twd.backends.clients.base import Backend
from twd.backends.verifier import prompt_texts
from twd.backends.verifier.loop_thread import LoopThread
from twd.backends.verifier.prompt_texts import PromptTexts
from twd.backends.verifier.token_texts import TokenTexts
from twd.wire.failures import FailureCode, TwdError

HALF = 999


class Words:
    """A server whose tokens are numbers; it answers when it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.may = asyncio.Event()
        self.fails = False

    async def tokenize(self, text: str) -> list[int]:
        return [ord("a")]

    async def detokenize(self, tokens: Sequence[int]) -> str:
        if tokens[0] != ord("a"):
            self.asked.append(tuple(tokens))
            await self.may.wait()
        if self.fails:
            raise TwdError(FailureCode.BACKEND_BROKEN, "no")
        return "".join("a" if token == ord("a") else "\ufffd" if token == HALF else f"<{token}>" for token in tokens)


class Rig:
    """Texts over such a server."""

    def __init__(self, loop: LoopThread) -> None:
        self.loop, self.words = loop, Words()
        self.tokens = TokenTexts(cast(Backend, self.words))
        self.texts = PromptTexts(cast(Backend, self.words), self.tokens, loop)

    def answer(self) -> None:
        async def let() -> None:
            self.words.may.set()

        self.loop.run(let())

    def settle(self) -> None:
        """All that was asked is answered."""

        async def turn() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.gather(*others, return_exceptions=True)

        self.loop.run(turn())


@pytest.fixture
def rig() -> Iterator[Rig]:
    loop = LoopThread("words")
    yield Rig(loop)
    loop.stop()


async def test_nobody_who_opens_a_session_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_texts, "WAIT_S", 3600.0)
    told: list[str] = []
    rig.texts.prepare([1, 2])  # as long as nobody wants texts, no job waits either
    asking = threading.Thread(target=lambda: told.append(rig.texts.of([1, 2, 3])), daemon=True)
    asking.start()
    await until(lambda: told, "it is told at once")
    assert told == [""]

    def prepare() -> None:
        rig.texts.prepare([4])
        told.append("prepared")

    threading.Thread(target=prepare, daemon=True).start()
    await until(lambda: (4,) in rig.words.asked, "the job's own text is asked for")
    assert told == [""], "from then on a job waits for the text of its own prompt"
    rig.answer()
    await until(lambda: told == ["", "prepared"], "it goes on")
    assert rig.texts.of([4]) == "<4>"


def test_what_was_written_since_is_told_from_the_tokens_that_are_known(rig: Rig) -> None:
    rig.answer()
    rig.texts.prepare([1, 2])
    rig.settle()
    rig.loop.run(rig.tokens.learn([3, HALF]))
    asked = len(rig.words.asked)
    assert rig.texts.of([1, 2, 3]) == "<1><2><3>"
    assert len(rig.words.asked) == asked, "without a request"
    assert rig.texts.of([1, 2, HALF]) == "", "half a character is no text"
    assert rig.texts.of([1, 5]) == "", "another prompt"
    rig.settle()
    assert rig.texts.of([1, 5]) == "<1><5>", "it is known when somebody asks again"


def test_what_failed_is_asked_again(rig: Rig) -> None:
    rig.answer()
    rig.words.fails = True
    rig.texts.prepare([1])
    rig.settle()
    assert rig.texts.of([1]) == ""
    rig.settle()
    rig.words.fails = False
    assert rig.texts.of([1]) == ""
    rig.settle()
    assert rig.texts.of([1]) == "<1>"


def test_the_oldest_are_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_texts, "KEPT_MAX", 2)
    rig.answer()
    for prompt in (1, 2, 1, 3):
        rig.texts.prepare([prompt])
        rig.settle()
    assert rig.words.asked == [(1,), (2,), (3,)]
    assert [rig.texts.of([prompt]) for prompt in (1, 3, 2)] == ["<1>", "<3>", ""]
