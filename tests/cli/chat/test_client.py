"""What `twd chat` says of servers that are none, and of refusals."""

import asyncio

import pytest

from twd.cli.chat.client import ChatClient, _words_of
from twd.cli.common.api_address import ApiAddress
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode


async def test_a_server_of_something_else_is_named_as_such() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"N"} \r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    client = ChatClient(ApiAddress(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "", None))
    with pytest.raises(CommandError, match=r"does not speak HTTP; name an OpenAI-compatible server$") as caught:
        await client.models()
    assert caught.value.exit_code is ExitCode.USAGE
    await client.close()
    server.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "known: a", "advice": "Ask.", "code": "x"}}', "known: a. Ask."),
        (b'{"error": {"message": "It is so.", "advice": "Ask."}}', "It is so. Ask."),
        (b'{"error": {"message": "known: a"}}', "known: a"),
        (b'{"error": {"advice": "Ask."}}', "Ask."),
    ],
)
def test_a_message_and_its_advice_are_sentences(body: bytes, words: str) -> None:
    assert _words_of(body)[0] == words
