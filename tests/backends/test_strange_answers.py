"""Whatever a server sends, it is read or it is a broken backend; nothing else can come of it."""

import contextlib
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.listener import job
from twd.backends import llama_server, ollama, sglang
from twd.backends.base import Piece
from twd.backends.openai_chunks import Chunk, ChunkReader
from twd.backends.relay_core import RelayedJob
from twd.backends.troubles import read_trouble
from twd.backends.upstream import Upstream
from twd.wire.base import ModelId, SessionId
from twd.wire.codec import Rejected, decode, encode
from twd.wire.failures import TwdError

UPSTREAM = Upstream("http://127.0.0.1:9")
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner)),
    max_leaves=8,
)


T = TypeVar("T")


def readable(value: Any, as_type: type[T]) -> T | None:
    """What a server sent, or None where it is refused as a broken backend's."""
    with contextlib.suppress(TwdError):
        return UPSTREAM.decode(msgspec.json.encode(value), as_type)
    return None


def shaped(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, each holding anything."""
    return st.dictionaries(st.sampled_from(names), JSON, max_size=len(names))


DELTAS = shaped(["content", "reasoning_content", "tool_calls"])
CHOICES = st.fixed_dictionaries(
    {}, optional={"delta": DELTAS, "text": JSON, "finish_reason": JSON, "token_ids": JSON, "logprobs": JSON}
)
CHUNKS = st.one_of(
    shaped(["choices", "usage", "error"]),
    st.fixed_dictionaries(
        {"choices": st.lists(CHOICES, max_size=2)}, optional={"usage": shaped(["prompt_tokens", "completion_tokens"])}
    ),
)


def read_all(pieces: list[Any]) -> None:
    """Pieces become events that every reader on the bus understands."""
    relayed = RelayedJob(job(stop=["x"]), SessionId("s"), ModelId("big"), 0.0)
    for piece in pieces:
        for event in relayed.take(piece, 1.0):
            assert not isinstance(decode(encode(event)), Rejected)


@given(st.lists(CHUNKS, max_size=5))
def test_chunks(chunks: list[Any]) -> None:
    reader = ChunkReader()
    read = [chunk for chunk in (readable(chunk, Chunk) for chunk in chunks) if chunk is not None]
    pieces = [piece for piece in map(reader.feed, read) if piece is not None]
    read_all([*pieces, reader.last()])


@given(shaped(["content", "tokens", "stop", "stop_type", "tokens_predicted", "tokens_evaluated", "timings"]))
def test_bits_of_llama_server(value: dict[str, Any]) -> None:
    bit = readable(value, llama_server._Bit)
    if bit is not None:
        read_all([Piece(text=bit.content, tokens=bit.tokens), llama_server._end(bit)])


@given(shaped(["response", "message", "done", "done_reason", "eval_count", "prompt_eval_count", "thinking"]))
def test_lines_of_ollama(value: dict[str, Any]) -> None:
    reader, line = ChunkReader(), readable(value, ollama._Line)
    if line is not None:
        piece = reader.feed(ollama._chunk(line))
        read_all([*([piece] if piece is not None else []), reader.last()])


@given(shaped(["text", "output_ids", "meta_info"]), st.text(max_size=5))
def test_steps_of_sglang(value: dict[str, Any], shown: str) -> None:
    step = readable(value, sglang._Generated)
    if step is not None:
        sglang._repeats(step, shown)
        read_all([Piece(text=step.text, tokens=step.output_ids), sglang._end(step.meta_info)])


@given(st.one_of(st.binary(max_size=60), JSON.map(msgspec.json.encode)), st.text(min_size=1, max_size=6))
def test_reasons_are_one_clean_line(body: bytes, secret: str) -> None:
    said = read_trouble(body, secret)
    assert said
    assert len(said) <= 300
    assert said.isprintable()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no", "type": "x"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": [{"msg": "no", "loc": ["a"]}]}', "no"),
        (b'{"object": "error", "message": "no\\nway"}', "no way"),
        (b"<html>\n no \x07</html>", "<html> no </html>"),
        (b"", "no reason given"),
        (b'{"error": {"message": "key sk-1 is wrong"}}', "key … is wrong"),
    ],
)
def test_reasons_in_every_shape(body: bytes, said: str) -> None:
    assert read_trouble(body, "sk-1") == said
