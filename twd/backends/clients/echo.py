"""Servers that echo a prompt with log probabilities. Their tokens have no ids, so this client gives an id to each token
text.
"""

import re
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from twd.backends.clients.base import UNKNOWN, Capabilities, CompletionWish, Pieces
from twd.backends.clients.openai_chunks import ChunkChoice, CompletionChunk
from twd.backends.clients.openai_compatible import OpenAiClient
from twd.backends.clients.upstream import SCORES_BYTES_MAX
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Prompt

IDS_MAX: Final = 1 << 20
_HALF = "\ufffd"
_RAW = "bytes:"
_WORDS = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class _Echo:
    """Where the server's tokens begin in a prompt, and the most likely token at each position."""

    starts: list[int]
    likeliest: list[str | None]
    written: str
    """What the model generated after the prompt."""
    stopped: bool


class EchoClient(OpenAiClient):
    """OpenAI's API; if the server echoes prompts, it can verify drafts."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._texts: list[str] = [""]  # 0 is the end of a text
        self._ids: dict[str, int] = {}

    async def probe(self) -> Capabilities:
        """Like any OpenAI server, plus a test whether it echoes."""
        listed = await self.find_model()
        scores = await self._echoes()
        note = "its tokens are known by their texts" if scores else ""
        return Capabilities(kind=self.kind, model=self.model, context=listed.context, score=scores, note=note)

    async def _echoes(self) -> bool:
        try:
            return len(await self.score(await self.tokenize("one two three"), 0)) > 0
        except TwdError as error:
            if error.code in (FailureCode.BACKEND_DOWN, FailureCode.DEADLINE, FailureCode.BUSY):
                raise
            return False

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Split as the server does, or else into words: the ids stand for texts, so any split works."""
        echo = await self._echo(text)
        edges = sorted({start for start in echo.starts if start >= 0} | {len(text)})
        words = _WORDS.findall(text[: edges[0]])
        return [self._id(piece) for piece in (*words, *(text[a:b] for a, b in pairwise(edges)))]

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The texts of the ids."""
        return "".join(map(self._text, tokens))

    async def render(self, prompt: Prompt) -> list[int]:
        """Only for texts: such a server does not show how it formats a conversation."""
        if prompt.text is None:
            raise self.cannot("turn a conversation into tokens", "messages")
        return await self.tokenize(prompt.text)

    def continue_tokens(self, tokens: Sequence[int], wish: CompletionWish) -> Pieces:
        """Continue the text of the ids; each piece that comes is a token."""
        return self._numbered(self.stream(replace(wish, prompt=Prompt(text="".join(map(self._text, tokens))))))

    async def _numbered(self, pieces: Pieces) -> Pieces:
        async with aclosing(pieces):
            async for piece in pieces:
                piece.tokens = [self._id(piece.text)] if piece.text else []
                yield piece

    async def score(self, tokens: Sequence[int], first: int) -> list[int]:
        """One request. A position where the server splits the text differently is UNKNOWN."""
        pieces = list(map(self._text, tokens))
        text = "".join(pieces)
        echo = await self._echo(text)
        at = {start: index for index, start in enumerate(echo.starts)}
        choices, end = [], sum(map(len, pieces[: first + 1]))
        for piece in pieces[first + 1 :]:
            choices.append(self._choice(echo.likeliest[at[end]] if end in at else None))
            end += len(piece)
        return [*choices, await self._following(text, echo)]

    async def is_end(self, tokens: Sequence[int], token: int) -> bool:
        """The end of a text has its own id."""
        return token == 0

    # -- inside --------------------------------------------------------------------------------

    async def _echo(self, text: str) -> _Echo:
        body = self._body(text, max_tokens=1, echo=True, logprobs=1)
        choice = self._only(
            await self.upstream.post(f"{self.api}/completions", body, CompletionChunk, limit=SCORES_BYTES_MAX)
        )
        told = choice.logprobs
        if told is None or not told.tokens or not told.top_logprobs or len(told.tokens) != len(told.top_logprobs):
            raise self.upstream.broken("echoed no log probabilities")
        if not (choice.text or "").startswith(text):
            raise self.upstream.broken("echoed another text than the prompt")
        written = (choice.text or "")[len(text) :]
        likeliest = [max(top, key=lambda one: top[one]) if top else None for top in told.top_logprobs]
        return _Echo(places(told.tokens, text, written), likeliest, written, choice.finish_reason == "stop")

    async def _following(self, text: str, echo: _Echo) -> int:
        """What the model generated after the prompt; an incomplete character is completed first."""
        if echo.written and _HALF not in echo.written:
            return self._id(echo.written)
        if echo.stopped and not echo.written:
            return 0
        body = self._body(text, max_tokens=6)
        choice = self._only(await self.upstream.post(f"{self.api}/completions", body, CompletionChunk))
        return self._id(choice.text[0]) if choice.text and choice.text[0] != _HALF else 0

    def _body(self, text: str, **fields: Any) -> dict[str, Any]:
        return {"model": self.model, "prompt": text, "temperature": 0.0, **fields}

    def _only(self, answer: CompletionChunk) -> ChunkChoice:
        if not answer.choices:
            raise self.upstream.broken("answered without a choice")
        return answer.choices[0]

    def _choice(self, text: str | None) -> int:
        if not text or _is_half(text):
            return UNKNOWN
        return self._id(text)

    def _text(self, token: int) -> str:
        if not 0 <= token < len(self._texts):
            text = f"{self.name} gives its tokens no ids, and {token} is none of those that were given here"
            raise TwdError(FailureCode.BAD_REQUEST, text, "prompt")
        return self._texts[token]

    def _id(self, text: str) -> int:
        found = self._ids.get(text)
        if found is None:
            if len(self._texts) >= IDS_MAX:
                raise self.upstream.broken(f"used more than {IDS_MAX} different tokens")
            found = self._ids[text] = len(self._texts)
            self._texts.append(text)
        return found


def places(tokens: Sequence[str], text: str, written: str) -> list[int]:
    """Where each token begins in the prompt, counted as far back from the end as it is certain; -1 elsewhere. Parts of
    a character have no text of their own, so positions before them are not certain. What the model generated begins at
    the end of the prompt.
    """
    starts = [-1] * len(tokens)
    at, index = len(text), len(tokens)
    if tokens and (written or _is_half(tokens[-1]) or not text.endswith(tokens[-1])):
        index -= 1
        starts[index] = at
    while index and at and not _is_half(tokens[index - 1]) and text.endswith(tokens[index - 1], 0, at):
        index -= 1
        at -= len(tokens[index])
        starts[index] = at
    return starts


def _is_half(token: str) -> bool:
    return _HALF in token or token.startswith(_RAW)
