"""A model's vocabulary: text to tokens, tokens to bytes, and which tokens end a turn."""

import ctypes
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial

from twd.engine.fragments import Fragments, lone_strings
from twd.engine.library import llama
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import VocabFingerprint

_UNKNOWN = 1 << 0
_CONTROL = 1 << 3
_USER_DEFINED = 1 << 4
_STRIPS_LEFT = 1 << 7
_STRIPS_RIGHT = 1 << 8
_NO_TOKEN = -1
_KINDS = {0: "none", 1: "spm", 2: "bpe", 3: "wpm", 4: "ugm", 5: "rwkv", 6: "plamo2"}
_PIECE_BYTES = 256
_UNBOUNDED = 2**31
_APART = "\x01"
"""A character that is not a part of a word in any vocabulary."""


class Vocab:
    """The tokens of one model. It reads from the model, so do not use it after the model is closed."""

    def __init__(self, handle: int, *, architecture: str = "", chat_template: str = "") -> None:
        self._handle = handle
        self._architecture = architecture
        self._chat_template = chat_template
        self.size: int = llama.llama_vocab_n_tokens(handle)
        self.kind = _KINDS.get(llama.llama_vocab_type(handle), "other")
        self.bos = _token(llama.llama_vocab_bos(handle))
        self.eos = _token(llama.llama_vocab_eos(handle))
        self.adds_bos = bool(llama.llama_vocab_get_add_bos(handle)) and self.bos is not None
        self._described = range(0 if self.kind == "none" else self.size)
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, parse_special: bool, add_bos: bool) -> list[int]:
        """Tokens of `text`; only with `parse_special` do strings such as `<|im_end|>` become control tokens.

        `add_bos` adds the beginning-of-text token if this model uses one.
        """
        if self.kind == "none":
            raise TwdError(FailureCode.UNSUPPORTED, "this model has no tokenizer; send token ids instead of text")
        start = [self.bos] if add_bos and self.adds_bos and self.bos is not None else []
        return start + (self._fragments.tokens(text) if parse_special else self._tokenize(text, parse_special=False))

    def warm(self) -> None:
        """Prepare now what the first prompt would wait for: about 0.3 s with thousands of control tokens."""
        _ = self._fragments

    def plain(self, text: str) -> list[int]:
        """Tokens of plain `text`, without beginning-of-text; no part of it becomes a control token."""
        return self.tokenize(text, parse_special=False, add_bos=False)

    def continued(self, text: str) -> list[int]:
        """The same for text that directly follows other text. Some tokenizers add a space before any text."""
        if self.kind != "spm":
            return self.plain(text)
        before, tokens = self.plain(_APART), self.plain(_APART + text)
        return tokens[len(before) :] if tokens[: len(before)] == before else self.plain(text)

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16 if raw else 0
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = llama.llama_tokenize(self._handle, raw, len(raw), buffer, room, False, parse_special)
            if count >= 0:
                return buffer[:count]
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to visible text; none for control tokens. Cached."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token, special=False)
        return known

    def special_text(self, token: int) -> str:
        """How the template writes a token, control tokens included (`<|im_end|>`)."""
        return self._piece(token, special=True).decode("utf-8", "replace")

    def _piece(self, token: int, *, special: bool) -> bytes:
        if token not in self._described:
            return b""
        room = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama.llama_token_to_piece(self._handle, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def text(self, tokens: list[int]) -> str:
        """The visible text of some tokens; bytes that are not whole characters become U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def spelled(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; control tokens appear by their names."""
        pieces = (self.piece(token) or self.special_text(token).encode() for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    @cached_property
    def longest_piece(self) -> int:
        """The most bytes of text in one token; practically unlimited if a whole unknown word is one token."""
        if self.kind in ("wpm", "ugm"):
            return _UNBOUNDED
        return max((len(self._piece(token, special=True)) for token in self._described), default=1)

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a turn or the text."""
        is_end, handle = llama.llama_vocab_is_eog, self._handle
        return frozenset(token for token in self._described if is_end(handle, token))

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Control and user-defined tokens by their text."""
        marked = (token for token, attributes in self._marked if attributes & (_CONTROL | _USER_DEFINED))
        return {self.special_text(token): token for token in marked}

    @cached_property
    def _marked(self) -> list[tuple[int, int]]:
        """The tokens that llama.cpp searches for before it tokenizes the text between them, with their attributes."""
        attributes, handle = llama.llama_vocab_get_attr, self._handle
        found = ((token, attributes(handle, token)) for token in self._described)
        return [(token, marks) for token, marks in found if marks & (_UNKNOWN | _CONTROL | _USER_DEFINED)]

    @cached_property
    def _fragments(self) -> Fragments:
        text, handle = llama.llama_vocab_get_text, self._handle
        written = [
            (text(handle, token).decode("utf-8", "surrogateescape"), token, marks) for token, marks in self._marked
        ]
        times = Counter(string for string, _, _ in written)
        lone = {string for string in lone_strings(times) if times[string] == 1}
        separators = {
            string: token
            for string, token, marks in written
            if string in lone and marks & _CONTROL and not marks & (_STRIPS_LEFT | _STRIPS_RIGHT)
        }
        return Fragments(separators, partial(self._tokenize, parse_special=True))

    @cached_property
    def middle_marks(self) -> tuple[int, int, int] | None:
        """The fill-in-the-middle tokens for prefix, suffix and middle; None if the model does not have all of them."""
        fim = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        prefix, suffix, middle = (_token(mark(self._handle)) for mark in fim)
        return None if prefix is None or suffix is None or middle is None else (prefix, suffix, middle)

    def fingerprint(self) -> VocabFingerprint:
        """A fingerprint to compare with the vocabulary of another model."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> VocabFingerprint:
        return VocabFingerprint(
            hash=self._hash(),
            tokens=self.size,
            kind=self.kind,
            architecture=self._architecture,
            template_hash=hashlib.sha256(self._chat_template.encode()).hexdigest()[:16] if self._chat_template else "",
        )

    def _hash(self) -> str:
        text, attributes, handle = llama.llama_vocab_get_text, llama.llama_vocab_get_attr, self._handle
        digest = hashlib.sha256(f"{self.kind} {self.size}".encode())
        for token in self._described:
            digest.update(text(handle, token) or b"")
            digest.update(attributes(handle, token).to_bytes(4, "little", signed=True))
        return digest.hexdigest()[:32]


def _token(token: int) -> int | None:
    return None if token == _NO_TOKEN else int(token)
