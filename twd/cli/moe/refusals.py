"""Failures of these commands as exit codes: what was named wrongly, what is not there, what cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.wire.failures import FailureCode, TwdError


@contextmanager
def refused() -> Iterator[None]:
    """A request that makes no sense is a wrong argument here, not a wrong configuration."""
    try:
        yield
    except CommandError:
        raise
    except TwdError as error:
        wrong = error.code in (FailureCode.BAD_REQUEST, FailureCode.UNSUPPORTED)
        raise CommandError(ExitCode.USAGE if wrong else exit_code_of(error.code), str(error)) from None
