"""Whatever a server sends, it is read or it is a broken backend; nothing else can come of it."""

import contextlib
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.listener import job
from tests.typed_json import JSON, shaped
from twd.backends.clients import llama_server, ollama, sglang
from twd.backends.clients.base import TextPiece
from twd.backends.clients.openai_chunks import ChunkLogprobs, ChunkReader, CompletionChunk, read_logprobs
from twd.backends.clients.upstream import UpstreamServer
from twd.backends.clients.upstream_errors import read_trouble
from twd.backends.relay.core import RelayedJob
from twd.wire.base import ModelId, SessionId
from twd.wire.codec import Rejected, decode, encode
from twd.wire.failures import TwdError

UPSTREAM = UpstreamServer("http://127.0.0.1:9")

T = TypeVar("T")


def readable(value: Any, as_type: type[T]) -> T | None:
    """What a server sent, or None where it is refused as a broken backend's."""
    with contextlib.suppress(TwdError):
        return UPSTREAM.decode(msgspec.json.encode(value), as_type)
    return None


def read_all(pieces: list[Any]) -> None:
    """Pieces become events that every reader on the bus understands."""
    relayed = RelayedJob(job(stop=["x"]), SessionId("s"), ModelId("big"), 0.0)
    for piece in pieces:
        for event in relayed.take(piece, 1.0):
            assert not isinstance(decode(encode(event)), Rejected)


@given(st.lists(shaped(CompletionChunk), max_size=5))
def test_chunks(chunks: list[Any]) -> None:
    reader = ChunkReader()
    read = [chunk for chunk in (readable(chunk, CompletionChunk) for chunk in chunks) if chunk is not None]
    pieces = [piece for piece in map(reader.feed, read) if piece is not None]
    read_all([*pieces, reader.last()])


@given(shaped(llama_server._Bit))
def test_bits_of_llama_server(value: dict[str, Any]) -> None:
    bit = readable(value, llama_server._Bit)
    if bit is not None:
        logprobs = read_logprobs(ChunkLogprobs(content=bit.completion_probabilities))
        read_all([TextPiece(text=bit.content, tokens=bit.tokens, logprobs=logprobs), llama_server._end(bit)])


@given(shaped(ollama._Line))
def test_lines_of_ollama(value: dict[str, Any]) -> None:
    reader, line = ChunkReader(), readable(value, ollama._Line)
    if line is not None:
        piece = reader.feed(ollama._chunk(line))
        read_all([*([piece] if piece is not None else []), reader.last()])


@given(shaped(sglang._Generated), st.text(max_size=5))
def test_steps_of_sglang(value: dict[str, Any], shown: str) -> None:
    step = readable(value, sglang._Generated)
    if step is not None:
        sglang._repeats(step, shown)
        read_all([TextPiece(text=step.text, tokens=step.output_ids), sglang._end(step.meta_info)])


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
