"""Failures for clients: the error body, the status, and when to retry."""

from twd.bus.base import BusError, RequestTimeout, TooLarge
from twd.edge.anthropic.types import AnthropicEnvelope, AnthropicError
from twd.edge.openai.answers import ErrorBody, ErrorEnvelope
from twd.wire.base import ModelId
from twd.wire.failures import Failure, FailureCode

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    499: "cancelled_error",
    504: "timeout_error",
}
CODES = {
    FailureCode.CONTEXT_OVERFLOW: "context_length_exceeded",
    FailureCode.UNAUTHENTICATED: "invalid_api_key",
    FailureCode.RATE_LIMITED: "rate_limit_exceeded",
    FailureCode.BUSY: "server_busy",
}
"""Codes that clients know by OpenAI's name."""

RETRY_AFTER_S = {FailureCode.BUSY: 1, FailureCode.RATE_LIMITED: 10, FailureCode.DRAINING: 5, FailureCode.NOBODY_HOME: 5}


def error_type(status: int) -> str:
    """OpenAI's error type of a failure."""
    return TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def advice(failure: Failure, status: int | None) -> str:
    """What the client can do about the failure; if the path is wrong, no field is named."""
    wrong_address = failure.code is FailureCode.BAD_REQUEST and status in (404, 405)
    return "Check method and path; /openapi.json lists them all." if wrong_address else failure.advice


def envelope(failure: Failure, status: int | None = None) -> ErrorEnvelope:
    """A failure as an error in OpenAI's form."""
    return ErrorEnvelope(
        error=ErrorBody(
            message=failure.message,
            type=error_type(status or failure.status),
            param=failure.field or None,
            code=CODES.get(failure.code, failure.code.value),
            advice=advice(failure, status),
        )
    )


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_envelope(failure: Failure, status: int | None = None) -> AnthropicEnvelope:
    """A failure as an error in Anthropic's form."""
    status = status or failure.status
    kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    where = f"{failure.field}: " if failure.field and failure.field not in failure.message else ""
    return AnthropicEnvelope(
        error=AnthropicError(type=kind, message=where + failure.message), advice=advice(failure, status)
    )


def unasked(model: ModelId, error: BusError) -> Failure:
    """The failure if a job could not be submitted, in words for clients, who do not know the bus."""
    match error:
        case TooLarge(size=size, limit=limit):
            text = f"the prompt with all that goes with it has {size} bytes; at most {limit} reach a model: shorten it"
            return Failure(code=FailureCode.TOO_LARGE, message=text)
        case RequestTimeout():
            return Failure(code=FailureCode.WORKER_LOST, message=f"the process that serves {model!r} does not answer")
        case _:
            return error.failure


def retry_after(failure: Failure) -> int | None:
    """Seconds to wait before a retry; None if a retry does not help."""
    return RETRY_AFTER_S.get(failure.code, 2) if failure.retry else None
