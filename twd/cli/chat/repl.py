"""The conversation at a terminal: read, answer, show figures, again."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from twd.cli.chat.client import ChatClient
from twd.cli.chat.commands import ChatCommand, UnknownCommand, help_lines, parse_command, question_of
from twd.cli.chat.conversation import Conversation, LineJoiner
from twd.cli.chat.figures import compared, figures
from twd.cli.chat.screen import Screen
from twd.cli.chat.stream import StreamedAnswer
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.private_file import write_private
from twd.settings.model import DEFAULT_NAMES
from twd.settings.paths import path_of

PROMPT: Final = "> "
MORE: Final = "… "


class Keyboard(Protocol):
    """Where lines come from."""

    def line(self, prompt: str) -> str:
        """The next line; EOFError and KeyboardInterrupt as `input` has them."""

    def begun(self) -> bool:
        """Whether a Ctrl-C came while something was typed."""

    def keep(self) -> None:
        """Remember the last line for the next chat."""


async def answer_once(client: ChatClient, talk: Conversation, screen: Screen) -> StreamedAnswer:
    """Answer the question that waits, as it comes."""
    answer = await client.ask(talk.request(talk.direct, talk.seed), screen.text, screen.thought)
    screen.end_line()
    return answer


async def answer_drafted(
    client: ChatClient, talk: Conversation, screen: Screen
) -> tuple[StreamedAnswer, dict[str, Any]]:
    """The first of two answers, with drafts; and the request for the second, without and with the same seed."""
    drafted = await client.ask(talk.request(False, talk.seed), screen.text, screen.thought)
    screen.end_line()
    if drafted.facts is None:
        text = f"{client.server.url} is not twd: it tells nothing of drafts, so there is nothing to compare"
        raise CommandError(ExitCode.USAGE, text)
    screen.remark("now without drafts …")
    return drafted, talk.request(True, drafted.facts.seed)


async def answer_plainly(client: ChatClient, request: dict[str, Any]) -> StreamedAnswer:
    """The second answer, which nobody needs to read."""
    return await client.ask(request, lambda text: None)


class Repl:
    """One chat until somebody leaves."""

    def __init__(
        self, runner: asyncio.Runner, client: ChatClient, talk: Conversation, screen: Screen, keyboard: Keyboard
    ) -> None:
        self._runner = runner
        self._client = client
        self._talk = talk
        self._screen = screen
        self._keyboard = keyboard
        self._lines = LineJoiner()
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._print(help_lines()),
            "/new": lambda _: self._new(),
            "/retry": lambda _: self._retry(),
            "/model": self._model,
            "/system": self._system,
            "/direct": lambda _: self._direct(),
            "/compare": lambda _: self._compare(),
            "/save": self._save,
        }

    def run(self) -> ExitCode:
        """Until /quit, Ctrl-D, or Ctrl-C twice."""
        stops = 0
        while True:
            try:
                line = self._keyboard.line(MORE if self._lines.open else PROMPT)
                stops = 0
                if not self._take(line):
                    return ExitCode.OK
            except EOFError:
                self._screen.remark("")
                return ExitCode.OK
            except KeyboardInterrupt:
                stops = 0 if self._lines.open or self._keyboard.begun() else stops + 1
                if not self._stopped(stops):
                    return ExitCode.INTERRUPTED

    def _stopped(self, stops: int) -> bool:
        """Ctrl-C: an answer stops, a begun text is dropped; the second in a row at an empty prompt leaves."""
        self._screen.end_line()
        self._lines.drop()
        if stops > 1:
            return False
        if stops:
            self._screen.remark("Ctrl-C again leaves; so does /quit")
        return True

    def _take(self, line: str) -> bool:
        """One typed line; False when it asks to leave."""
        whole = self._lines.add(line)
        if line.strip():
            self._keyboard.keep()
        if whole is None or not whole.strip():
            return True
        try:
            command = parse_command(whole)
            if command is None:
                self._talk.ask(question_of(whole))
                self._answer()
            elif command.name == "/quit":
                return False
            else:
                self._obey(command)
        except (CommandError, UnknownCommand) as error:
            self._screen.problem(str(error))
        return True

    def _obey(self, command: ChatCommand) -> None:
        self._commands[command.name](command.argument)

    # -- answers -------------------------------------------------------------------------------

    def _answer(self) -> None:
        try:
            if self._talk.compare:
                self._answer_compared()
            else:
                answer = self._runner.run(answer_once(self._client, self._talk, self._screen))
                self._talk.answered(answer.text)
                self._screen.remark(figures(answer))
        except KeyboardInterrupt:
            self._keep_rest("stopped")
            raise
        except CommandError:
            self._keep_rest("")
            raise

    def _answer_compared(self) -> None:
        drafted, request = self._runner.run(answer_drafted(self._client, self._talk, self._screen))
        self._talk.answered(drafted.text)
        plain = self._runner.run(answer_plainly(self._client, request))
        self._print(compared(drafted, plain))

    def _keep_rest(self, why: str) -> None:
        """What came of an answer that did not end is part of the conversation."""
        self._talk.answered(self._client.reader.answer.text)
        if why:
            self._screen.remark(f"{why}; `twd trace {self._client.job}` has its story" if self._client.job else why)

    def _retry(self) -> None:
        if not self._talk.take_back():
            raise CommandError(ExitCode.USAGE, "there is no question to ask again")
        self._answer()

    # -- the conversation ----------------------------------------------------------------------

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            self._screen.remark(line)

    def _new(self) -> None:
        self._talk.forget()
        self._screen.remark("a new conversation")

    def _model(self, name: str) -> None:
        known = self._runner.run(self._client.models())
        if not name:
            return self._print([f"{'*' if model == self._talk.model else ' '} {model}" for model in known])
        if name not in (*known, *DEFAULT_NAMES):
            raise CommandError(ExitCode.NOT_FOUND, f"there is no model {name!r}; there are: {', '.join(known)}")
        self._talk.model = name
        return self._screen.remark(f"{name} answers from now on")

    def _system(self, text: str) -> None:
        if text:
            self._talk.system = "" if text == "off" else text
        self._screen.remark(self._talk.system or "no instructions")

    def _direct(self) -> None:
        self._talk.direct = not self._talk.direct
        self._screen.remark("without drafts" if self._talk.direct else "with drafts")

    def _compare(self) -> None:
        self._talk.compare = not self._talk.compare
        self._screen.remark("every question is answered twice" if self._talk.compare else "every question once")

    def _save(self, name: str) -> None:
        if not name:
            raise CommandError(ExitCode.USAGE, "name a file: /save FILE")
        path = path_of(name)
        try:
            if path.exists():
                raise CommandError(ExitCode.USAGE, f"{path} exists; name another file")
            write_private(path, msgspec.json.format(msgspec.json.encode(self._talk.document()), indent=2) + b"\n")
        except OSError as error:
            raise CommandError(ExitCode.USAGE, f"{path} cannot be written: {error.strerror}") from None
        self._screen.remark(f"saved to {path}")
