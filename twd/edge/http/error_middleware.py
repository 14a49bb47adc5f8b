"""The middleware around every handler: turns each error into a reply in the right form."""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from twd.edge.auth.rate_limits import RateLimited
from twd.edge.http.body import SlowClient
from twd.edge.http.replies import failure_reply, hang_up
from twd.edge.monitoring.history import NotRemembered
from twd.wire.failures import Failure, FailureCode, TwdError


async def reply_or_failure(request: web.Request, handler: Handler, log: logging.Logger) -> web.StreamResponse:
    """Run a handler; an error becomes an error reply, never a traceback."""
    path = request.path
    try:
        return await handler(request)
    except SlowClient as error:
        return _closing(failure_reply(error.failure, path, 408))
    except NotRemembered as error:
        return failure_reply(error.failure, path, 404)
    except RateLimited as error:
        reply = failure_reply(error.failure, path)
        reply.headers["Retry-After"] = str(error.wait_s)
        return reply
    except TwdError as error:
        reply = failure_reply(error.failure, path)
        return _closing(reply) if error.code is FailureCode.TOO_LARGE else reply
    except web.HTTPException as error:
        return _http_error(request, error)
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("fault while answering %s %s", request.method, path)
        if request.writer.output_size:
            hang_up(request)  # part of the answer was sent already: an error after it would look like more of it
            raise ConnectionResetError("the answer broke off") from error
        fault = Failure(code=FailureCode.INTERNAL, message=f"{type(error).__name__} inside the edge")
        return failure_reply(fault, path)


def _http_error(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """The usual error reply for aiohttp's own errors (404, 405, bad paths)."""
    if error.status < 400:
        raise error
    text = f"{request.method} {request.path[:200]}: {error.reason}"
    reply = failure_reply(Failure(code=FailureCode.BAD_REQUEST, message=text), request.path, error.status)
    if isinstance(error, web.HTTPMethodNotAllowed):
        reply.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return reply


def _closing(reply: web.Response) -> web.Response:
    """Mark the reply so that the connection closes: the rest of the body is not read, so it cannot be used again."""
    reply.force_close()
    return reply


def quiet_about_bad_http(log: logging.Logger) -> logging.Logger:
    """Log invalid HTTP and clients that leave early with one line at debug level, without a traceback: they are not our
    errors.
    """

    def soften(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | ConnectionError):
            return True
        log.debug("connection dropped: %s", str(error).splitlines()[:1])
        return False

    log.addFilter(soften)
    return log
