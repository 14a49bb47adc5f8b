"""Scores and votes that make no sense are refused before anything is decided by them."""

import msgspec
import pytest

from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.codec import Rejected, decode_as, encode
from twd.wire.job import TokensAccepted, TokenScore
from twd.wire.judging import TokensAgreed

SCORED = TokensAccepted(
    job=JobId("j"),
    attempt=1,
    session=SessionId("s"),
    at=3,
    index=0,
    tokens=[7],
    text="x",
    scores=[TokenScore(gap=0.25, logprob=-1.0, entropy=0.5)],
)
AGREED = TokensAgreed(
    session=SessionId("s"), racer=InstanceId("r"), at=3, prefix=1, tokens=[7], votes=2, asked=3, source=InstanceId("r")
)


@pytest.mark.parametrize("gap", [b"null", b"-0.25", b"NaN", b'"0"', b"[]", b"1e999"])
def test_a_gap_that_is_no_number_is_no_score(gap: bytes) -> None:
    read = decode_as(TokensAccepted, encode(SCORED).replace(b"0.25", gap))
    assert isinstance(read, Rejected)


def test_a_number_that_cannot_be_written_is_no_score_either() -> None:
    broken = msgspec.structs.replace(SCORED, scores=[TokenScore(gap=float("nan"), logprob=-1.0, entropy=0.5)])
    assert isinstance(decode_as(TokensAccepted, encode(broken)), Rejected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b'"tokens":[7]', b'"tokens":[%s]' % b",".join([b"7"] * 257)),
        (b'"tokens":[7]', b'"tokens":[-1]'),
        (b'"at":3', b'"at":-1'),
        (b'"votes":2', b'"votes":-2'),
        (b'"prefix":1', b'"prefix":-1'),
    ],
)
def test_votes_out_of_range_are_refused(field: bytes, value: bytes) -> None:
    told = encode(AGREED)
    assert field in told
    assert isinstance(decode_as(TokensAgreed, told.replace(field, value)), Rejected)
