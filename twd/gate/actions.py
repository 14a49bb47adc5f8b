"""What the decisions of a gate ask its service to do."""

import msgspec

from twd.wire.base import Tokens
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobStarted, Judge, Judged, TokenScore


class Ask(msgspec.Struct, frozen=True):
    """Have a member write an answer."""

    number: int
    member: str


class ScoreAnswer(msgspec.Struct, frozen=True):
    """Have the target score a text behind these tokens; without a text, have it read the prompt."""

    number: int
    judge: Judge
    resume: Tokens = []


class AskJudge(msgspec.Struct, frozen=True):
    """Ask a model in words about an answer."""

    number: int
    answer: str


class Write(msgspec.Struct, frozen=True):
    """Have the target write on behind these tokens; it may expect this text."""

    number: int
    resume: Tokens = []
    prediction: str = ""


class Stop(msgspec.Struct, frozen=True):
    """Nobody needs this part any more."""

    number: int


class BeginAnswer(msgspec.Struct, frozen=True):
    """The client may be told that its job has started."""

    started: JobStarted


class Say(msgspec.Struct, frozen=True):
    """The next piece of the answer."""

    tokens: Tokens
    text: str
    lengths: list[int] = []
    author: str = ""


class End(msgspec.Struct, frozen=True):
    """The answer is whole."""

    finished: JobFinished
    judged: Judged


class Break(msgspec.Struct, frozen=True):
    """The answer cannot be given."""

    failure: Failure


class FoundAnswer(msgspec.Struct, frozen=True):
    """What a verdict tells of a member: the part of its answer that stood."""

    member: str
    kept: float
    verdict: str


Action = Ask | ScoreAnswer | AskJudge | Write | Stop | BeginAnswer | Say | End | Break | FoundAnswer


class AnswerPiece(msgspec.Struct, frozen=True):
    """Scored tokens of an answer."""

    tokens: list[int] = []
    shown: list[str] = []
    scores: list[TokenScore] = []
