"""Failure is vocabulary: a closed set of codes, each with an HTTP status and an advice line."""

import enum
from typing import Annotated, NamedTuple

from msgspec import Meta

from twd.wire.base import Part


class FailureCode(enum.StrEnum):
    """Every way in which a job, a model or a service can fail."""

    BAD_REQUEST = "bad_request"
    BAD_GRAMMAR = "bad_grammar"
    UNSUPPORTED = "unsupported"
    CONTEXT_OVERFLOW = "context_overflow"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    MODEL_NOT_FOUND = "model_not_found"
    TOO_LARGE = "too_large"
    CANCELLED = "cancelled"
    BUSY = "busy"
    RATE_LIMITED = "rate_limited"
    DEADLINE = "deadline"
    NOBODY_HOME = "nobody_home"
    WORKER_LOST = "worker_lost"
    MODEL_LOAD = "model_load"
    OUT_OF_MEMORY = "out_of_memory"
    BACKEND_DOWN = "backend_down"
    BACKEND_BROKEN = "backend_broken"
    BUS_DOWN = "bus_down"
    NO_SOURCE = "no_source"
    DISK_FULL = "disk_full"
    WRONG_BYTES = "wrong_bytes"
    DRAINING = "draining"
    INTERNAL = "internal"


class Advice(NamedTuple):
    """How a failure code looks from outside."""

    status: int
    advice: str
    retry: bool


ADVICE: dict[FailureCode, Advice] = {
    FailureCode.BAD_REQUEST: Advice(400, "Correct the named field and send it again.", False),
    FailureCode.BAD_GRAMMAR: Advice(400, "Check the grammar or JSON schema; the message names the place.", False),
    FailureCode.UNSUPPORTED: Advice(400, "This model or backend cannot do that; leave the field out.", False),
    FailureCode.CONTEXT_OVERFLOW: Advice(400, "Shorten the prompt, lower max_tokens or raise ctx_size.", False),
    FailureCode.UNAUTHENTICATED: Advice(401, "Send a valid key as 'Authorization: Bearer KEY'.", False),
    FailureCode.FORBIDDEN: Advice(403, "The message names what forbids it; ask whoever runs this server.", False),
    FailureCode.MODEL_NOT_FOUND: Advice(404, "Ask for a model that /v1/models lists.", False),
    FailureCode.TOO_LARGE: Advice(413, "Send a smaller request; the message names the limit.", False),
    FailureCode.CANCELLED: Advice(499, "The client went away or asked to stop.", False),
    FailureCode.BUSY: Advice(429, "The queue is full; try again in a moment.", True),
    FailureCode.RATE_LIMITED: Advice(429, "This key is over its limit; wait as Retry-After says.", True),
    FailureCode.DEADLINE: Advice(504, "The job outlived its deadline; allow more time or ask for fewer tokens.", False),
    FailureCode.NOBODY_HOME: Advice(503, "No process serves this model now; see `twd status`.", True),
    FailureCode.WORKER_LOST: Advice(502, "The process that served this job is gone; it is being restarted.", True),
    FailureCode.MODEL_LOAD: Advice(503, "The model file cannot be loaded; see `twd doctor` and the log.", False),
    FailureCode.OUT_OF_MEMORY: Advice(
        503, "Free memory, lower ctx_size or parallel, or choose a smaller model.", False
    ),
    FailureCode.BACKEND_DOWN: Advice(502, "The backend does not answer; check its URL and that it runs.", True),
    FailureCode.BACKEND_BROKEN: Advice(502, "The backend's answer makes no sense; check its version.", False),
    FailureCode.BUS_DOWN: Advice(503, "The message bus is away; it reconnects by itself.", True),
    FailureCode.NO_SOURCE: Advice(503, "Start a machine that has the file; what came is kept, so pull again.", True),
    FailureCode.DISK_FULL: Advice(507, "Make room on that disk; what came is kept, so pull again.", False),
    FailureCode.WRONG_BYTES: Advice(502, "The file is another one than its hashes say; get its manifest again.", False),
    FailureCode.DRAINING: Advice(503, "This process is shutting down; try again.", True),
    FailureCode.INTERNAL: Advice(500, "A fault in twd; `twd trace JOB` and the log have the story.", False),
}


def sentences(message: str, advice: str) -> str:
    """A message and an advice, either of which may be empty, with a stop between them."""
    apart = "" if not message or message.endswith((".", "!", "?")) else "."
    return f"{message}{apart if advice else ''} {advice}".strip()


class Failure(Part, frozen=True):
    """What went wrong, in words and as a code."""

    code: FailureCode
    message: Annotated[str, Meta(max_length=4096)]
    field: str = ""

    @property
    def status(self) -> int:
        """The HTTP status that this failure becomes."""
        return ADVICE[self.code].status

    @property
    def advice(self) -> str:
        """What the reader can do about it."""
        return ADVICE[self.code].advice

    @property
    def with_advice(self) -> str:
        """The message, and what the reader can do about it."""
        return sentences(self.message, self.advice)

    @property
    def retry(self) -> bool:
        """Whether the same request may work later."""
        return ADVICE[self.code].retry


class TwdError(Exception):
    """Base of every error that twd raises on purpose; it carries its Failure."""

    def __init__(self, code: FailureCode, message: str, field: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(code=code, message=message[:4096], field=field)

    @property
    def code(self) -> FailureCode:
        """The failure's code."""
        return self.failure.code
