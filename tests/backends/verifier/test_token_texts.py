"""The texts of a remote server's tokens: drafts are made of them while they are learnt."""

import asyncio
import threading
from collections.abc import Sequence
from typing import cast

from twd.backends.clients.base import Backend
from twd.backends.verifier.token_texts import TokenTexts


class Words:
    """A token is a word of its own; one that is negative is a part of a character."""

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return [0]

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join("a" if token == 0 else "\ufffd" if token < 0 else f" w{token}" for token in tokens)


async def test_a_draft_is_made_of_the_tokens_that_are_known() -> None:
    texts = TokenTexts(cast(Backend, Words()))
    assert texts.draft(" w1") == []
    await texts.learn([1, 12, -3])
    assert texts.draft(" w12 w1 w12") == [12, 1, 12]
    assert texts.draft(" w1 w3") == [1]
    assert texts.draft("\ufffd") == []
    assert texts.draft(" w1 w1 w1", limit=2) == [1, 1]


async def test_drafts_are_made_while_another_thread_learns() -> None:
    texts = TokenTexts(cast(Backend, Words()))
    await texts.learn(range(1, 2000))
    learning = threading.Thread(target=lambda: asyncio.run(texts.learn(range(2000, 12_000))))
    learning.start()
    while learning.is_alive():
        assert texts.draft(" w5 w6") == [5, 6]
    learning.join()
