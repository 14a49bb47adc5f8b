"""Forced tokens: drafts that need no model, because a grammar allows only one text, such as the keys of a schema."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final, Protocol

from twd.grammar.automaton import DEAD
from twd.grammar.json.layout import BLANKS, JsonLayout
from twd.structured_output.compiled import CompiledGrammar, GrammarVocabulary
from twd.wire.failures import TwdError

TOKENS_MAX: Final = 64
BYTES_MAX: Final = 256
"""The most bytes of one look-ahead."""
LOOKS_KEPT: Final = 64
SPELLED, SURE, USUAL, LAST = 0.95, 0.85, 0.75, 0.65
"""How sure a guess is, from 0 to 1. SPELLED: the same tokens were used here before. SURE: only this byte may follow.
USUAL: after whitespace, which is free. LAST: the last token, because a longer token may contain it and what follows."""

Guesses = tuple[list[int], list[float]]
"""Tokens, and for each how sure it is."""
Tokenize = Callable[[str], Sequence[int]]


class WritingVocabulary(GrammarVocabulary, Protocol):
    """A vocabulary that can also tokenize text."""

    def continued(self, text: str) -> list[int]:
        """The tokens of plain text that directly follows other text."""
        ...


class ForcedTokens:
    """Follows one text through its grammar and predicts forced tokens. For the thread that uses the grammar.

    A grammar that is not `binding` is not enforced. Then the predictions are only likely, and they begin when the text
    begins to follow the grammar.
    """

    def __init__(
        self, grammar: CompiledGrammar, piece: Callable[[int], bytes], tokenize: Tokenize, *, binding: bool = True
    ) -> None:
        self._grammar = grammar
        self._piece = piece
        self._tokenize = tokenize
        self._binding = binding
        self._tokens: list[int] = []
        self._automaton = grammar.automaton
        self._state = grammar.start
        self._layout = JsonLayout(grammar.habits)
        self._known: dict[tuple[int, ...], Guesses] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens to the text."""
        self._known.clear()
        try:
            self._renew()
            for token in tokens:
                if self._is_demanded(self._state, token):
                    self._grammar.spelled[self._state] = token
                self._state, self._layout = self._step(self._state, self._layout, token)
        except TwdError:  # the grammar is too ambiguous to follow; the sampler reports it
            self._state = DEAD
        self._tokens += tokens

    def propose(self, limit: int, beyond: Sequence[int] = ()) -> Guesses:
        """At most `limit` forced tokens after the text, and for each how sure it is.

        `beyond`: drafts that may follow the text; the forced tokens come after them.
        """
        if limit <= 0:
            return [], []
        asked = tuple(beyond)
        if asked not in self._known:
            if len(self._known) >= LOOKS_KEPT:
                self._known.clear()
            self._known[asked] = self._look(asked)
        tokens, sure = self._known[asked]
        return tokens[:limit], sure[:limit]

    def _look(self, beyond: Sequence[int]) -> Guesses:
        try:
            self._renew()
            state, layout = self._state, self._layout.fork()
            for token in beyond:
                state, layout = self._step(state, layout, token)
            return self._demanded(state, layout)
        except TwdError:
            return [], []

    def _demanded(self, state: int, layout: JsonLayout) -> Guesses:
        tokens: list[int] = []
        sure: list[float] = []
        if not self._binding and state == self._grammar.start:
            return tokens, sure
        while len(tokens) < TOKENS_MAX and state != DEAD and not self._grammar.accepts(state):
            known = self._grammar.spelled.get(state, self._grammar.only_token(state))
            if known is not None:
                tokens.append(known)
                sure.append(SPELLED)
                state = self._after(state, known)
                layout.extend(self._piece(known))
                continue
            data, levels = self._run(state, layout)
            words = self._words(data)
            if not words:
                break
            tokens += words
            ends = accumulate(len(self._piece(word)) for word in words[:-1])
            sure += [*(levels[end - 1] for end in ends), min(LAST, levels[-1])]
            state = self._automaton.after(state, data)
        return tokens, sure

    def _run(self, state: int, layout: JsonLayout) -> tuple[bytes, list[float]]:
        """The forced bytes, and for each how sure it is. Where whitespace is free, the usual whitespace is taken."""
        data, levels = b"", list[float]()
        while len(data) < BYTES_MAX and not self._automaton.accepts(state):
            able = self._automaton.next_bytes(state)
            step = able if len(able) == 1 else _behind_blanks(able, layout)
            state = self._automaton.after(state, step) if step else DEAD
            if state == DEAD:
                break
            layout.extend(step)
            data += step
            levels += [SURE if len(able) == 1 else USUAL] * len(step)
        return data, levels

    def _words(self, data: bytes) -> list[int]:
        """The tokens of bytes; empty if the bytes are not whole characters, or the tokens give other bytes."""
        try:
            words = list(self._tokenize(data.decode()))
        except UnicodeDecodeError:
            return []
        return words if b"".join(map(self._piece, words)) == data else []

    def _is_demanded(self, state: int, token: int) -> bool:
        """Whether the grammar forced all bytes of the token, whitespace aside."""
        data = self._piece(token)
        for place in range(len(data)):
            if self._grammar.accepts(state):
                return False
            able = self._automaton.next_bytes(state)
            if len(able) != 1 and len(able.translate(None, BLANKS)) != 1:
                return False
            state = self._automaton.after(state, data[place : place + 1])
        return bool(data) and state != DEAD

    def _step(self, state: int, layout: JsonLayout, token: int) -> tuple[int, JsonLayout]:
        """The state and the layout after a token. Text outside the grammar does not change the layout."""
        following = self._after(state, token)
        if state < 0:
            if following < 0:
                return following, layout
            layout = JsonLayout(layout.habits)
        layout.extend(self._grammar.governed(state, token))
        return following, layout

    def _after(self, state: int, token: int) -> int:
        following = DEAD if state == DEAD else self._grammar.after(state, token)
        return following if following != DEAD or self._binding else self._grammar.back_on_track()

    def _renew(self) -> None:
        """Follow the text again from its beginning if the automaton was replaced."""
        if self._grammar.renew() is not self._automaton:
            self._automaton = self._grammar.automaton
            self._state = self._grammar.start
            for token in self._tokens:
                self._state = self._after(self._state, token)


def _behind_blanks(able: bytes, layout: JsonLayout) -> bytes:
    """The usual whitespace and the only other byte that may follow; empty if several may, or the usual is unknown."""
    solid = able.translate(None, BLANKS)
    blanks = layout.coming(solid[0]) if len(solid) == 1 else None
    return b"" if blanks is None else blanks + solid


def remembered(tokenize: Callable[[str], list[int]]) -> Tokenize:
    """The same function with a cache, because the keys of a schema come again in each answer."""
    return lru_cache(1024)(lambda text: tuple(tokenize(text)))
