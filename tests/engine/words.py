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
