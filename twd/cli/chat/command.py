"""`twd chat`: talk to a model, and see what drafts did for each answer."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Final

import click

from twd.cli.chat.client import ChatClient
from twd.cli.chat.conversation import Conversation
from twd.cli.chat.screen import Screen
from twd.cli.common.api_address import ApiAddress, find_api
from twd.cli.common.context import CliContext
from twd.cli.common.numbers import NumberRange
from twd.cli.common.options_as import options_as
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.model import DEFAULT_NAMES

STDIN_BYTES_MAX: Final = 10 * 1024 * 1024
HISTORY_FILE: Final = "chat_history"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What the command line asks for."""

    question: str
    model: str
    system: str
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    direct: bool
    compare: bool
    url: str
    key: str
    as_json: bool

    def conversation(self) -> Conversation:
        """A new conversation, as these options want it."""
        if self.direct and self.compare:
            raise click.UsageError("--compare is with and without drafts, so --direct does not go with it")
        return Conversation(
            self.model, self.system, self.temperature, self.max_tokens, self.seed, self.direct, self.compare
        )


@click.command()
@click.argument("question", required=False, default="")
@click.option("-m", "--model", default="default", help="Who answers; the default model otherwise.")
@click.option("--system", default="", metavar="TEXT", help="Instructions to the model.")
@click.option("--temperature", type=NumberRange(0.0, 2.0), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer.")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="The same seed gives the same answer.")
@click.option("--direct", is_flag=True, help="Without drafts.")
@click.option("--compare", is_flag=True, help="Answer twice, with drafts and without: speeds, and whether texts equal.")
@click.option("--url", default="", help="A server elsewhere, in place of the instance that runs here.")
@click.option("--key", default="", help="The key that it asks for; better in TWD_TOKEN, where nobody reads along.")
@click.option("--json", "as_json", is_flag=True, help="Print answer and figures as JSON.")
@click.pass_obj
@options_as(ChatOptions)
def chat(ctx: CliContext, asked: ChatOptions) -> ExitCode:
    """Talk to a model. With a QUESTION, or a text piped in: answer that and leave.

    Exit code 10: --compare found texts that differ.
    """
    talk = asked.conversation()
    at_keyboard = sys.stdin is not None and sys.stdin.isatty()
    question = question_from(asked.question, "" if at_keyboard else piped_text())
    if not question and (asked.as_json or not at_keyboard):
        raise click.UsageError("no question: write one after `twd chat`, or pipe one in")
    server = find_api(ctx, asked.url, asked.key)
    if question:
        talk.ask(question)
        return answer_and_leave(server, talk, asked.as_json)
    return converse(ctx, server, talk)


def question_from(question: str, piped: str) -> str:
    """What was written on the command line, then what was piped in."""
    return "\n\n".join(part for part in (question.strip(), piped.strip()) if part)


def piped_text() -> str:
    """All of stdin; nothing where it is closed."""
    if sys.stdin is None:
        return ""
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        raise CommandError(
            ExitCode.USAGE, f"more than {STDIN_BYTES_MAX // 2**20} MiB were piped in; no model reads that"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(ExitCode.USAGE, f"what was piped in is no UTF-8 text: {error.reason}") from None


def answer_and_leave(server: ApiAddress, talk: Conversation, as_json: bool) -> ExitCode:
    """One answer on stdout: for people with its figures, in a pipe the bare text, or all as JSON."""
    from twd.cli.chat.figures import compared, comparison_document, figures
    from twd.cli.chat.repl import answer_drafted, answer_once, answer_plainly

    screen = Screen()
    shown = SilentScreen() if as_json else screen

    async def answer() -> ExitCode:
        client = ChatClient(server)
        try:
            if not talk.compare:
                one = await answer_once(client, talk, shown)
                click.echo(json.dumps(one.document())) if as_json else screen.remark(figures(one))
                return ExitCode.OK
            drafted, request = await answer_drafted(client, talk, shown)
            both = drafted, await answer_plainly(client, request)
            if as_json:
                click.echo(json.dumps(comparison_document(*both)))
            for line in () if as_json else compared(*both):
                click.echo(line, err=not screen.terminal)
            return ExitCode.OK if both[0].text == both[1].text else ExitCode.DIFFERENT
        finally:
            await client.close()

    try:
        return asyncio.run(answer())
    except KeyboardInterrupt:
        shown.end_line()
        raise


class SilentScreen(Screen):
    """Shows nothing: what is to be told comes as JSON."""

    def text(self, piece: str) -> None:
        """Nothing."""

    def remark(self, words: str) -> None:
        """Nothing."""


def converse(ctx: CliContext, server: ApiAddress, talk: Conversation) -> ExitCode:
    """A conversation at this terminal."""
    from twd.cli.chat.line_input import LineInput
    from twd.cli.chat.repl import Repl

    screen = Screen(terminal=True)
    ctx.home.prepare()
    with asyncio.Runner() as runner:
        client = ChatClient(server)
        try:
            known = runner.run(client.models())
            if talk.model not in (*known, *DEFAULT_NAMES):
                text = f"there is no model {talk.model!r}; there are: {', '.join(known)}"
                raise CommandError(ExitCode.NOT_FOUND, text)
            screen.remark(f"{_named(talk, known)} at {server.url}; /help lists what you can do, Ctrl-D leaves")
            return Repl(runner, client, talk, screen, LineInput(ctx.home.path / HISTORY_FILE, screen.problem)).run()
        finally:
            runner.run(client.close())


def _named(talk: Conversation, known: list[str]) -> str:
    return known[0] if talk.model in DEFAULT_NAMES and len(known) == 1 else talk.model
