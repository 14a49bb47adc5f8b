"""A conversation that does not fit loses its oldest exchanges, and never what the answer needs."""

from dataclasses import replace

import msgspec
import pytest

from tests.speculator.fakes import job
from twd.chat.template import ChatTemplate
from twd.decoding.sampler import SamplerFactory
from twd.engine.model import LoadedGguf
from twd.speculator.admission.request_preprocessor import ROOM_PART, RequestPreprocessor
from twd.speculator.admission.truncation import left_out_first, without
from twd.wire.base import SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, JobSubmitted, Prompt

ROLES = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}


def talk(shape: str) -> list[ChatMessage]:
    return [
        msgspec.convert({"role": ROLES[kind], "content": f"{kind}{at}"}, ChatMessage) for at, kind in enumerate(shape)
    ]


@pytest.mark.parametrize(
    ("shape", "turns"),
    [
        ("", []),
        ("s", []),
        ("u", []),
        ("suau", [[1, 2]]),
        ("suaduau", [[1, 2], [4, 5]]),
        ("uatatauat", [[0, 1, 2, 3, 4, 5]]),
        ("auau", [[0], [1, 2]]),
        ("uuau", [[0], [1, 2]]),
        ("suatatat", [[2, 3], [4, 5]]),
        ("uauatat", [[0, 1], [3, 4]]),
        ("aaa", [[0], [1]]),
        ("sua", []),
    ],
)
def test_what_goes_first(shape: str, turns: list[list[int]]) -> None:
    assert left_out_first(talk(shape)) == turns


def test_what_is_left() -> None:
    messages = talk("suaduau")
    assert [one.content for one in without(messages, [[1, 2]])] == ["s0", "d3", "u4", "a5", "u6"]


@pytest.fixture(scope="module")
def preparer(q4: LoadedGguf) -> RequestPreprocessor:
    return RequestPreprocessor(
        q4.vocab, ChatTemplate.of(q4.chat_template, q4.vocab), SamplerFactory(q4.vocab), lambda: 1, 256
    )


def asked(messages: list[ChatMessage], max_tokens: int | None = None) -> JobSubmitted:
    return job("j", prompt=Prompt(messages=messages, truncate=True), max_tokens=max_tokens)


def long_talk(exchanges: int) -> list[ChatMessage]:
    said = [
        message
        for at in range(exchanges)
        for message in (
            ChatMessage(role="user", content=f"question {at}"),
            ChatMessage(role="assistant", content=f"answer {at}"),
        )
    ]
    return [ChatMessage(role="system", content="RULES"), *said, ChatMessage(role="user", content="LAST")]


@pytest.mark.model
@pytest.mark.parametrize("max_tokens", [None, 10, 100])
def test_as_much_of_the_end_as_leaves_room_for_the_answer(
    preparer: RequestPreprocessor, max_tokens: int | None
) -> None:
    opening = preparer.prepare(asked(long_talk(40), max_tokens), SessionId("s"))
    text = preparer.vocab.text(opening.tokens)
    room = max_tokens or preparer.ctx_size // ROOM_PART
    assert preparer.ctx_size - room - 30 < len(opening.tokens) <= preparer.ctx_size - room
    assert "RULES" in text
    assert "LAST" in text
    assert "answer 39" in text
    assert "question 0\n" not in text
    assert "question" in text.split("answer")[0], "exchanges stay whole"


@pytest.mark.model
def test_what_fits_stays_whole(preparer: RequestPreprocessor) -> None:
    short = asked(long_talk(3))
    plain = msgspec.structs.replace(short, prompt=msgspec.structs.replace(short.prompt, truncate=False))
    assert preparer.prepare(short, SessionId("s")).tokens == preparer.prepare(plain, SessionId("s")).tokens
    tight = replace(preparer, ctx_size=len(preparer.prepare(short, SessionId("s")).tokens) + 1)
    assert tight.prepare(short, SessionId("s")).tokens == preparer.prepare(plain, SessionId("s")).tokens


@pytest.mark.model
def test_many_megabytes_are_not_written_out_to_be_left_out(preparer: RequestPreprocessor) -> None:
    huge = [ChatMessage(role="user", content="x" * 1_000_000), ChatMessage(role="assistant", content="y")]
    opening = preparer.prepare(asked([*huge, *long_talk(2)]), SessionId("s"))
    assert "answer 1" in preparer.vocab.text(opening.tokens)


@pytest.mark.model
def test_what_the_user_said_last_is_never_cut(preparer: RequestPreprocessor) -> None:
    words = ChatMessage(role="user", content="x" * 1_000_000)
    with pytest.raises(TwdError) as caught:
        preparer.prepare(asked([*long_talk(2)[:-1], words]), SessionId("s"))
    assert caught.value.code is FailureCode.CONTEXT_OVERFLOW
