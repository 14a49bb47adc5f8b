"""Log probabilities in the two forms of OpenAI's APIs."""

from twd.edge.openai.answers import ChatLogprobs, ContentLogprob, TextLogprobs, TopLogprob
from twd.wire.job import TokenLogprob, TopToken


def _bytes(token: TokenLogprob | TopToken) -> list[int]:
    return token.bytes or list(token.text.encode())


def chat_logprobs(tokens: list[TokenLogprob]) -> ChatLogprobs:
    """The form of /v1/chat/completions."""
    return ChatLogprobs(
        content=[
            ContentLogprob(
                token=token.text,
                logprob=token.logprob,
                bytes=_bytes(token),
                top_logprobs=[TopLogprob(token=top.text, logprob=top.logprob, bytes=_bytes(top)) for top in token.top],
            )
            for token in tokens
        ]
    )


def text_logprobs(tokens: list[TokenLogprob], offset: int) -> TextLogprobs:
    """The form of /v1/completions; `offset` is where the first token's text begins."""
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += characters_in(token)
    tops = [_by_text(token.top) for token in tokens]
    return TextLogprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=tops if any(tops) else None,
        text_offset=offsets,
    )


def characters_in(token: TokenLogprob) -> int:
    """How many characters begin in a token. A character may be spread over several tokens, whose texts are empty."""
    return sum(byte & 0xC0 != 0x80 for byte in _bytes(token))


def _by_text(tops: list[TopToken]) -> dict[str, float]:
    """The alternatives by their text. If texts are equal, as with parts of characters, the most likely one counts."""
    found: dict[str, float] = {}
    for top in tops:
        found[top.text] = max(top.logprob, found.get(top.text, top.logprob))
    return found
