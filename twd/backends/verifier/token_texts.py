"""What a remote server's tokens look like as text, learnt token by token and kept."""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from twd.backends.clients.base import Backend

END: Final = 2**31 - 1
"""Stands for whichever token ends a text; servers have several, and tell them only when they meet them."""
_ANCHOR: Final = "a"
_HALF = "\ufffd"
_SPECIAL = re.compile(r"<[^<>\s]{1,60}>|\[[A-Z_/]{2,40}\]|")
_HALVES_MAX = 8


class TokenTexts:
    """The text that each token adds behind others, and which tokens end a text.

    A token is looked at behind a plain one: alone, many tokenizers would swallow the space before a word.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._texts: dict[int, str] = {END: ""}
        self._ids: dict[str, int] = {}
        """Only ever added to: a service's loop drafts from it while the server's thread learns."""
        self._longest = 0
        self._ends = {END}
        self._doubtful: set[int] = set()
        """They look like ends, and never came where that could be tried."""
        self._anchor: list[int] | None = None

    async def learn(self, tokens: Sequence[int], before: Sequence[int] = ()) -> None:
        """See that the texts of tokens are known and, of those that look like an end, whether they are one: that is
        tried where the model itself chose them, all in a row behind `before`."""
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
        """The text that tokens add behind a plain one."""
        if self._anchor is None:
            self._anchor = await self._backend.tokenize(_ANCHOR)
        whole = await self._backend.detokenize([*self._anchor, *tokens])
        return whole.removeprefix(_ANCHOR)

    def text(self, token: int) -> str:
        """A known token's text."""
        return self._texts[token]

    def joined_if_known(self, tokens: Sequence[int]) -> str | None:
        """The text of tokens behind others, told without a request; None where it is not known."""
        texts = [self._texts.get(token, _HALF) for token in tokens]
        return None if any(_HALF in text for text in texts) else "".join(texts)

    def ended(self, token: int) -> int:
        """END for a token that ends texts; others stay as they are."""
        return END if token in self._ends else token

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """Tokens up to the first that ends a text: what was guessed behind it, and held, is of no text."""
        ended = [self.ended(token) for token in tokens]
        return ended[: ended.index(END) + 1] if END in ended else ended

    def draft(self, text: str, limit: int = 64) -> list[int]:
        """Tokens that may make up a text, from those known by now: good enough for a guess, and no request."""
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
    """The bytes of a text's tokens, in order: read from the server as they are chosen, and told later without it.

    Tokens that are parts of a character are joined before they are read.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._halves: list[int] = []
        self._read: deque[bytes] = deque()

    async def read(self, tokens: Sequence[int]) -> None:
        """The text goes on with these."""
        await self._texts.learn(tokens)
        for token in tokens:
            self._read.append(await self._completed(token))

    def __call__(self, token: int) -> bytes:
        """What the next token completes, which is this one; nothing while a character is still in parts."""
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
