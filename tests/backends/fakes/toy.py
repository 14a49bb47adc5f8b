"""A toy language model: what comes next follows from the last tokens, so every server agrees on every text."""

import codecs
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORDS = (
    " the a of and to in is it you that he was for on are with as his they at be this from have or by one had not but"
    " what all were when we there can an your which their said if do will each about how up out them then she many some"
    " so these would other into has more her two like him see time could no make than first been its who now people my"
    " made over did down only way find use may water long little very after words called just where most know"
)
WORDS = list(dict.fromkeys(_WORDS.split()))
EMOJI = "👋"
CONTROL = ["<|end|>", "<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True)
class Generated:
    """One token that the toy wrote, and the text that a server would show for it."""

    token: int
    text: str


class Toy:
    """Tokens 0 to 255 are bytes; then come words with a space before them, some phrases, control tokens."""

    def __init__(self) -> None:
        words = [f" {word}".encode() for word in WORDS] + [word.encode() for word in WORDS] + [b". ", b",\n"]
        self.pieces = [bytes([value]) for value in range(256)] + words
        self.words = range(256, 256 + len(WORDS))
        self.end = len(self.pieces)
        self.control = {text: self.end + index for index, text in enumerate(CONTROL)}
        self.size = self.end + len(CONTROL)
        self._ids = {piece: index for index, piece in enumerate(self.pieces)}
        self._longest = max(map(len, self.pieces))
        self.context = 4096

    # -- text and tokens -----------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """The longest piece first; control tokens only if they are asked for."""
        tokens: list[int] = []
        while text:
            cut = min((at for name in self.control if special and (at := text.find(name)) >= 0), default=len(text))
            tokens += self._plain(text[:cut].encode())
            text = text[cut:]
            name = next((name for name in self.control if special and text.startswith(name)), "")
            if name:
                tokens.append(self.control[name])
                text = text[len(name) :]
        return tokens

    def _plain(self, raw: bytes) -> list[int]:
        tokens, at = [], 0
        while at < len(raw):
            length = next(
                n for n in range(self._longest, 0, -1) if raw[at : at + n] in self._ids and at + n <= len(raw)
            )
            tokens.append(self._ids[raw[at : at + length]])
            at += length
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for control tokens."""
        return self.pieces[token] if token < self.end else b""

    def text(self, tokens: Iterable[int]) -> str:
        """The visible text of tokens."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def spelled(self, token: int) -> str:
        """A token as text, control tokens included."""
        if token >= self.end:
            return CONTROL[token - self.end]
        return self.pieces[token].decode("utf-8", "replace")

    def render(self, messages: Sequence[dict[str, str]], *, ask: bool = True) -> str:
        """A conversation by the toy's chat template."""
        turns = [f"<|im_start|>{m['role']}\n{m.get('content') or ''}<|im_end|>\n" for m in messages]
        return "".join(turns) + ("<|im_start|>assistant\n" if ask else "")

    # -- the model -----------------------------------------------------------------------------

    def next(self, tokens: Sequence[int], seed: int | None = None) -> int:
        """The likeliest token after these; with a seed, the one that this seed draws."""
        tail = ",".join(map(str, tokens[-2:])) + ("" if seed is None else f"/{seed}")
        number = int.from_bytes(hashlib.sha256(tail.encode()).digest()[:4])
        emoji = self._plain(EMOJI.encode())
        for length in range(len(emoji) - 1, 0, -1):
            if list(tokens[-length:]) == emoji[:length]:
                return emoji[length]
        if number % 23 == 0:
            return emoji[0]
        if number % 61 == 1:
            return self.control["<|im_end|>"]
        return self.words[number % len(self.words)]

    def generate(
        self, tokens: Sequence[int], limit: int, *, seed: int | None = None, endless: bool = False
    ) -> list[int]:
        """What the model writes after these tokens, the end token not included."""
        written: list[int] = []
        while len(written) < limit:
            token = self.next([*tokens, *written], seed)
            if token >= self.end:
                if not endless:
                    break
                token = self.words[0]
            written.append(token)
        return written

    def show(self, tokens: Iterable[int]) -> list[Generated]:
        """Tokens with the text that each adds, whole characters only."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        return [Generated(token, decode(self.piece(token))) for token in tokens]

    def shown(self, tokens: Iterable[int]) -> str:
        """The text that a server shows: a character that is cut off at the end is left out."""
        return "".join(one.text for one in self.show(tokens))


TOY = Toy()
