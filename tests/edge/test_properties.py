"""Properties: validators never crash, streams always frame, texts survive any chunking."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.fake_speculator import MODEL
from tests.typed_json import shaped
from twd.edge.core import RequestContext, ServerLimits, header_options
from twd.edge.http import sse
from twd.edge.http.base_types import TwdOptions
from twd.edge.http.validation import read_request
from twd.edge.openai.chat import chat_jobs
from twd.edge.openai.chat_answer import ChatAnswer
from twd.edge.openai.completions import completion_jobs
from twd.edge.openai.logprobs import characters_in, text_logprobs
from twd.edge.openai.types import ChatRequest, CompletionRequest
from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.codec import decode_as, encode
from twd.wire.failures import TwdError
from twd.wire.job import (
    FinishReason,
    JobFinished,
    JobStarted,
    JobStats,
    JobSubmitted,
    TokenLogprob,
    TokensAccepted,
    TopToken,
)


def terms() -> RequestContext:
    return RequestContext(
        model=MODEL,
        owner=InstanceId("edge.n.1"),
        house=ServerLimits(max_tokens_limit=16384, deadline_s=600),
        options=TwdOptions(),
        fresh_seed=1,
        new_job=lambda: JobId("job-1"),
        created_ms=1,
    )


@contextmanager
def typed_errors() -> Iterator[None]:
    """What goes wrong inside is a TwdError that becomes a 400."""
    try:
        yield
    except TwdError as error:
        if error.failure.status != 400:
            raise


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(body: bytes) -> None:
    for model in (ChatRequest, CompletionRequest):
        with pytest.raises(TwdError) as refused:
            read_request(model, body)
        assert refused.value.failure.status == 400


@given(shaped(ChatRequest), shaped(CompletionRequest))
def test_any_json_is_jobs_that_the_bus_takes_or_a_typed_error(chat: dict[str, Any], text: dict[str, Any]) -> None:
    good = {"messages": [{"role": "user", "content": "x"}]}
    both: list[tuple[Any, Any, Any]] = [
        (ChatRequest, chat_jobs, good | chat),
        (CompletionRequest, completion_jobs, {"prompt": "x"} | text),
    ]
    for model, to_jobs, payload in both:
        with typed_errors():
            for job in to_jobs(read_request(model, json.dumps(payload).encode()), terms()):
                assert decode_as(JobSubmitted, encode(job)) == job


WORDS = {
    "mode": st.sampled_from(["speculate", "direct", "consensus", "gate"]),
    "speculation": st.sampled_from(["auto", "off", " 4 "]),
    "exact": st.sampled_from(["true", "false"]),
    "deadline-s": st.integers(1, 3600).map(str),
}
NONSENSE = st.text() | st.sampled_from(["on", "exact", "-1", "nan", "inf", "1e400", "9" * 400, "²"])


@given(st.fixed_dictionaries({}, optional={f"x-twd-{name}": words for name, words in WORDS.items()}))
def test_headers_are_wishes(headers: dict[str, str]) -> None:
    options = header_options(headers)
    wished = {
        f"x-twd-{name.replace('_', '-')}" for name in TwdOptions.__struct_fields__ if getattr(options, name) is not None
    }
    assert wished == set(headers)


@given(st.dictionaries(st.sampled_from([f"x-twd-{name}" for name in WORDS]), NONSENSE))
def test_any_headers_are_wishes_or_a_typed_error(headers: dict[str, str]) -> None:
    with typed_errors():
        assert isinstance(header_options(headers), TwdOptions)


class Anything(msgspec.Struct):
    text: str


@given(st.text(st.characters(exclude_categories=())))
def test_an_event_is_one_block_whatever_it_holds(text: str) -> None:
    try:
        block = sse.event(Anything(text))
    except UnicodeEncodeError:
        assert any("\ud800" <= character <= "\udfff" for character in text)
        return
    assert block.startswith(b"data: ")
    assert block.endswith(b"\n\n")
    assert block.count(b"\n") == 2
    assert b"\r" not in block
    assert json.loads(block[6:]) == {"text": text}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=12))
def test_streamed_and_whole_texts_are_the_same(pieces: list[str]) -> None:
    def run(stream: bool) -> tuple[bytes, ChatAnswer]:
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": stream}).encode()
        request = read_request(ChatRequest, body)
        jobs = chat_jobs(request, terms())
        answer = ChatAnswer(request, jobs, terms(), 1)
        job, session = jobs[0].job, SessionId("s")
        out = answer.hear(0, JobStarted(job=job, attempt=1, session=session, model=MODEL, prompt_tokens=1))
        for at, piece in enumerate(pieces):
            out += answer.hear(
                0, TokensAccepted(job=job, attempt=1, session=session, at=at, index=at, tokens=[at], text=piece)
            )
        stats = JobStats(completion_tokens=len(pieces))
        out += answer.hear(0, JobFinished(job=job, attempt=1, reason=FinishReason.STOP, stats=stats))
        return out + answer.end(), answer

    streamed, _ = run(True)
    _, answer = run(False)
    blocks = [json.loads(block[6:]) for block in streamed.split(b"\n\n") if block.startswith(b"data: {")]
    deltas = [block["choices"][0]["delta"].get("content", "") for block in blocks]
    assert "".join(deltas) == "".join(pieces) == answer.whole().choices[0].message.content
    assert streamed.endswith(b"data: [DONE]\n\n")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.data())
def test_offsets_are_places_in_the_text_however_tokens_cut_its_characters(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    tokens = [
        TokenLogprob(token=1, text=piece.decode(errors="replace"), logprob=-1.0, bytes=list(piece)) for piece in pieces
    ]
    offsets = [*text_logprobs(tokens, 0).text_offset, sum(map(characters_in, tokens))]
    begun = [len(whole[:end].decode(errors="replace")) for end in (0, *cuts, len(whole))]
    assert offsets == begun


def test_of_alternatives_that_read_alike_the_likeliest_is_told() -> None:
    top = [TopToken(token=n, text="\ufffd", logprob=-0.5 - n) for n in range(3)]
    found = text_logprobs([TokenLogprob(token=0, text="\ufffd", logprob=-0.5, top=top)], 0)
    assert found.top_logprobs == [{"\ufffd": -0.5}]
