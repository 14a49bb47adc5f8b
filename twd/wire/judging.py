"""Answers that others wrote and a target judged, tokens that drafters agreed on, and what that was worth."""

from typing import Annotated, Final

from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, JobId, ModelId, Part, Position, PrefixHash, SessionId, Share, Token
from twd.wire.job import Judged

GATE: Final = "+gate"
CONSENSUS: Final = "+consensus"
"""Behind a model's name: whose judgement, or whose place, it is."""
RACERS: Final = InstanceId("racer.any.any")
"""All racers: sessions in which drafters may agree on tokens are told to them, and no others."""


class GateCost(Part, frozen=True):
    """What one answer took."""

    target_ms: float = 0.0
    """Of the target's time, all judging and writing included."""
    member_ms: float = 0.0
    """Of all members that were asked."""
    judge_ms: float = 0.0
    """Of the target's time, for judging alone."""
    tokens: Count = 0
    """Of the answer."""
    exact_ms: float | None = None
    """What the target would have taken to write it with drafts, as measured on other answers; if that is known."""


class AnswerJudged(Event, frozen=True, tag="twd.v1.answer.judged"):
    """What became of one request to a gate."""

    job: JobId
    model: ModelId
    judged: Judged
    cost: GateCost = GateCost()
    asked: list[str] = []
    """The members that were asked, in order."""
    rejected: Count = 0
    """Answers that were refused before this one."""
    cached: bool = False
    """The verdict was known from an earlier answer with the same words."""


class AnswerAudited(Event, frozen=True, tag="twd.v1.answer.audited"):
    """A passed answer was written by the target, too, and compared."""

    job: JobId
    model: ModelId
    member: str
    wrong: bool
    audits: Count
    errors: Count
    low: Share
    """The error rate is between these, at every look."""
    high: Share
    mode: str = "gate"
    target_ms: float = 0.0


class ModeClosed(Event, frozen=True, tag="twd.v1.mode.closed"):
    """A mode that may change text serves exactly from now on."""

    model: ModelId
    mode: str
    why: Annotated[str, Meta(max_length=1024)]
    member: str = ""


class TokensAgreed(Event, frozen=True, tag="twd.v1.tokens.agreed"):
    """Drafters agree on these tokens, which continue the prefix that ends before `at` and hashes to `prefix`."""

    session: SessionId
    racer: InstanceId
    at: Position
    prefix: PrefixHash
    tokens: Annotated[list[Token], Meta(max_length=256)]
    votes: Count
    asked: Count
