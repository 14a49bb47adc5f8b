"""The texts of a remote server's tokens, learnt token by token and kept."""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from twd.backends.clients.base import Backend

END: Final = 2**31 - 1
"""Stands for any token that ends a text. Servers have several, and which ones is learnt only when they occur."""
_ANCHOR: Final = "a"
_HALF = "\ufffd"
_SPECIAL = re.compile(r"<[^<>\s]{1,60}>|\[[A-Z_/]{2,40}\]|")
_HALVES_MAX = 8


class TokenTexts:
    """The text that each token adds after other tokens, and which tokens end a text.

    A token is detokenized after a plain one: alone, many tokenizers would drop the space before a word.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._texts: dict[int, str] = {END: ""}
        self._ids: dict[str, int] = {}
        """Entries are only added: the service's loop drafts from it while the server's thread learns."""
        self._longest = 0
        self._ends = {END}
        self._doubtful: set[int] = set()
        """Tokens that look like an end and could not be tested yet."""
        self._anchor: list[int] | None = None

    async def learn(self, tokens: Sequence[int], before: Sequence[int] = ()) -> None:
        """Learn the texts of tokens. If a token looks like an end, test whether it is one: this is done where the model
        itself chose the tokens, in a row after `before`.
        """
        news = [token for token in dict.fromkeys(tokens) if token not in self._texts]
        texts = await asyncio.gather(*(self.joined([token]) for token in news))
        for token, text in zip(news, texts, strict=True):
            self._texts[token] = text
            if text and _HALF not in text:
                self._ids[text], self._longest = token, max(self._longest, len(text))
            if _SPECIAL.fullmatch(text):
                self._doubtful.add(token)
        for place, token in enumerate(tokens if before else ()):
            if token in self._doubtful:
                if await self._backend.is_end([*before, *tokens[:place]], token):
                    self._ends.add(token)
                self._doubtful.discard(token)

    async def joined(self, tokens: Sequence[int]) -> str:
        """The text that tokens add after a plain one."""
        if self._anchor is None:
            self._anchor = await self._backend.tokenize(_ANCHOR)
        whole = await self._backend.detokenize([*self._anchor, *tokens])
        return whole.removeprefix(_ANCHOR)

    def text(self, token: int) -> str:
        """The text of a known token."""
        return self._texts[token]

    def joined_if_known(self, tokens: Sequence[int]) -> str | None:
        """The text of tokens, without a request; None if it is not known."""
        texts = [self._texts.get(token, _HALF) for token in tokens]
        return None if any(_HALF in text for text in texts) else "".join(texts)

    def ended(self, token: int) -> int:
        """END for a token that ends texts; other tokens stay the same."""
        return END if token in self._ends else token

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """The tokens up to the first one that ends the text; accepted drafts after it do not belong to the text."""
        ended = [self.ended(token) for token in tokens]
        return ended[: ended.index(END) + 1] if END in ended else ended

    def draft(self, text: str, limit: int = 64) -> list[int]:
        """Known tokens that form a text: good enough for a guess, and no request is made."""
        ids, longest = self._ids, self._longest
        tokens: list[int] = []
        at = 0
        while at < len(text) and len(tokens) < limit:
            length = next((n for n in range(min(longest, len(text) - at), 0, -1) if text[at : at + n] in ids), 0)
            if not length:
                break
            tokens.append(ids[text[at : at + length]])
            at += length
        return tokens


class PieceReader:
    """The bytes of a text's tokens, in order. They are read from the server when tokens are chosen, and returned later
    without a request.

    Tokens that are parts of a character are joined before they are read.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._halves: list[int] = []
        self._read: deque[bytes] = deque()

    async def read(self, tokens: Sequence[int]) -> None:
        """The text continues with these tokens."""
        await self._texts.learn(tokens)
        for token in tokens:
            self._read.append(await self._completed(token))

    def __call__(self, token: int) -> bytes:
        """The bytes that the next token completes; empty while a character is incomplete. Calls must be in order."""
        return self._read.popleft()

    async def _completed(self, token: int) -> bytes:
        if not self._halves and _HALF not in self._texts.text(token):
            return self._texts.text(token).encode()
        self._halves.append(token)
        text = await self._texts.joined(self._halves)
        if text.endswith(_HALF) and len(self._halves) < _HALVES_MAX:
            return b""
        self._halves = []
        return text.encode("utf-8", "replace")
