"""The error of a command that cannot do its work, and the failure that an unexpected exception becomes."""

from twd.kit.exit_codes import ExitCode
from twd.wire.failures import Failure, FailureCode, TwdError


class CommandError(TwdError):
    """Ends a command with an exit code and a message that says what to do."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(FailureCode.BAD_REQUEST, message)
        self.exit_code = exit_code


def internal(error: BaseException) -> Failure:
    """Return an exception as a failure with the code INTERNAL."""
    return Failure(code=FailureCode.INTERNAL, message=f"{type(error).__name__}: {error}"[:4096])
