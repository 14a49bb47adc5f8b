"""What a command says when it cannot do its work."""

from twd.kit.exit_codes import ExitCode
from twd.wire.failures import FailureCode, TwdError


class CommandError(TwdError):
    """A clear end of a command; the message says what to do."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(FailureCode.BAD_REQUEST, message)
        self.exit_code = exit_code
