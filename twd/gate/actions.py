"""The actions that the decisions of a gate ask its service to do."""

import msgspec

from twd.wire.base import Tokens
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobStarted, Judge, Judged


class Ask(msgspec.Struct, frozen=True):
    """Let a member write an answer."""

    number: int
    member: str


class ScoreAnswer(msgspec.Struct, frozen=True):
    """Let the target score a text that follows these tokens; without a text, let it read the prompt."""

    number: int
    judge: Judge
    resume: Tokens = []


class AskJudge(msgspec.Struct, frozen=True):
    """Ask a model for a verdict on an answer, with a prompt."""

    number: int
    answer: str


class Write(msgspec.Struct, frozen=True):
    """Let the target continue after these tokens; `prediction` is a text that it may expect."""

    number: int
    resume: Tokens = []
    prediction: str = ""


class Stop(msgspec.Struct, frozen=True):
    """Cancel this part."""

    number: int


class BeginAnswer(msgspec.Struct, frozen=True):
    """Tell the client that its job has started."""

    started: JobStarted


class Say(msgspec.Struct, frozen=True):
    """Send the next piece of the answer."""

    tokens: Tokens
    text: str
    lengths: list[int] = []
    author: str = ""


class End(msgspec.Struct, frozen=True):
    """The answer is complete."""

    finished: JobFinished
    judged: Judged


class Break(msgspec.Struct, frozen=True):
    """The request failed."""

    failure: Failure


class FoundAnswer(msgspec.Struct, frozen=True):
    """A verdict on a member: the share of its answer that was kept."""

    member: str
    kept: float
    verdict: str


Action = Ask | ScoreAnswer | AskJudge | Write | Stop | BeginAnswer | Say | End | Break | FoundAnswer
