"""Bytes that come from anywhere: every event survives the way, and nothing else harms."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.wire.base import Event
from twd.wire.codec import MAX_MESSAGE_BYTES, Rejected, decode, decode_as, encode
from twd.wire.job import JobCancelled, JobStarted
from twd.wire.routes import ROUTES, Route

SAMPLES = {path: path.read_bytes() for path in (Path(__file__).parents[2] / "bus_schemas/samples").rglob("*.json")}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("data", SAMPLES.values(), ids=[path.stem for path in SAMPLES])
def test_an_event_survives_the_way(data: bytes) -> None:
    event = decode(data)
    assert isinstance(event, Event)
    assert encode(decode_as(type(event), encode(event))) == encode(event)  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_any_bytes_become_a_value(data: bytes) -> None:
    assert isinstance(decode(data), Rejected | Event)


@given(st.sampled_from(ROUTES), JSON)
def test_any_json_becomes_a_value(route: Route, value: object) -> None:
    body = {**value, "type": route.tag} if isinstance(value, dict) else value
    assert isinstance(decode(msgspec.json.encode(body)), Rejected | Event)


@given(st.sampled_from(sorted(SAMPLES.values())), st.data())
def test_one_wrong_value_is_refused_or_read_never_a_crash(sample: bytes, data: st.DataObject) -> None:
    fields = json.loads(sample)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    assert isinstance(decode(msgspec.json.encode(fields)), Rejected | Event)


@given(st.sampled_from(sorted(SAMPLES.values())), st.data())
def test_a_torn_message_is_refused(sample: bytes, data: st.DataObject) -> None:
    compact = json.dumps(json.loads(sample)).encode()
    assert isinstance(decode(compact[: data.draw(st.integers(0, len(compact) - 1))]), Rejected)


def test_fields_of_a_later_version_are_ignored() -> None:
    event = decode(b'{"type":"twd.v1.job.cancelled","job":"j","mood":{"colour":"blue"}}')
    assert isinstance(event, JobCancelled)


def test_a_type_of_a_later_version_is_unknown_not_wrong() -> None:
    answer = decode(b'{"type":"twd.v2.job.cancelled"}')
    assert isinstance(answer, Rejected)
    assert answer.unknown


def test_the_reason_names_the_field() -> None:
    answer = decode_as(JobStarted, b'{"type":"twd.v1.job.started","job":1}')
    assert isinstance(answer, Rejected)
    assert "$.job" in answer.reason


def test_a_message_of_another_type_is_refused() -> None:
    assert isinstance(decode_as(JobStarted, b'{"type":"twd.v1.job.cancelled","job":"j"}'), Rejected)


def test_what_is_too_big_is_not_even_read() -> None:
    answer = decode(b" " * (MAX_MESSAGE_BYTES + 1))
    assert isinstance(answer, Rejected)
    assert "bytes" in answer.reason


def test_deep_nesting_is_refused() -> None:
    assert isinstance(decode(b"[" * 100_000), Rejected)
    deep = b'{"type":"twd.v1.job.cancelled","job":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert isinstance(decode(deep), Rejected)


def test_huge_numbers_are_refused() -> None:
    assert isinstance(decode(b'{"type":"twd.v1.job.cancelled","job":"j","at_ms":1e400}'), Rejected)
    assert isinstance(decode(b'{"type":"twd.v1.job.cancelled","job":"j","at_ms":' + b"9" * 5000 + b"}"), Rejected)
