"""A small made-up vocabulary: every byte, some words, two control tokens; the last token ends the text."""

from collections.abc import Iterable

WORDS = (
    '{"', '": "', '": ', '", "', '"}', '"', "true", "false", "null", " the", "a", "ab", "abc", "bc", "é", "日本", "😀",
    "\n\n", "   ", "12", "3.5", "],", "[[", "]]", "no", "yes", "not", '\\"', "e-",
)  # fmt: skip
SPECIAL = ("<|think|>", "<|end|>")


class Words:
    """Tokens 0 to 255 are the bytes, then come words, `<|think|>` and `<|end|>`."""

    def __init__(self, words: Iterable[str] = WORDS) -> None:
        self._pieces = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words] + [b"", b""]
        self.size = len(self._pieces)
        self.special_tokens = {name: self.size - 2 + index for index, name in enumerate(SPECIAL)}
        self.end = self.size - 1
        self.end_tokens = frozenset([self.end])

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._pieces[token]

    def text(self, tokens: Iterable[int]) -> str:
        """The text of some tokens."""
        return b"".join(map(self.piece, tokens)).decode()

    def continued(self, text: str) -> list[int]:
        """A text in tokens, each the longest that fits."""
        data, tokens = text.encode(), []
        while data:
            fitting = (
                token for token in range(self.size) if self._pieces[token] and data.startswith(self._pieces[token])
            )
            tokens.append(max(fitting, key=lambda token: len(self._pieces[token])))
            data = data[len(self._pieces[tokens[-1]]) :]
        return tokens
