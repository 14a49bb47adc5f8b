"""A grammar for the text between two marks, such as a tool call, or after one mark, such as an answer after a thought.
All other text is free."""

import numpy as np
from numpy.typing import NDArray

from twd.grammar.automaton import DEAD, Automaton
from twd.grammar.marks import THOUGHT, borders, matched
from twd.grammar.rules import OneToken
from twd.structured_output.compiled import CompiledGrammar, GrammarTokens, bare_token, bare_tokens, mark_parts
from twd.wire.job import Grammar

_FREE = -1


class MarkedGrammar(CompiledGrammar):
    """Applies the grammar between each pair of marks, or from the first mark on to the end of the text.

    The states of free text are below 0: -1 if no byte of the mark is matched yet, -2 after its first byte, and so on.
    """

    def __init__(self, grammar: Grammar, tokens: GrammarTokens) -> None:
        super().__init__(grammar, tokens)
        self._begins = grammar.begins.encode()
        self._borders = borders(self._begins)
        self._begin = bare_token(tokens.vocab, grammar.begins)
        self._named = {token: name.encode() for name, token in bare_tokens(tokens.vocab, grammar.begins).items()}
        """Control tokens that are a part of the mark."""
        self._rest, self._opens = grammar.rest, grammar.opens
        self._settle()

    def _settle(self) -> None:
        """Find the automaton's states after the marks: at the begin of a thought, and at its end."""
        self._thinks: int | None = None
        self._inside = state = self.automaton.start
        if self._opens:
            for part in mark_parts(self._tokens.vocab, self._opens):
                if isinstance(part, OneToken):
                    (token,) = part.ids
                    state = super().after(state, token)
                else:
                    state = self.automaton.after(state, part.data)
            self._thinks, self._inside = state, self.automaton.after(state, THOUGHT)

    def renew(self) -> Automaton:
        """Like the base class; in a new automaton, the states after the marks are found again."""
        before = self.automaton
        if super().renew() is not before:
            self._settle()
        return self.automaton

    @property
    def start(self) -> int:
        """The free state before any mark; or the automaton's start, if the text must begin with an opening mark to be
        free."""
        return self.automaton.start if self._opens else _FREE

    def accepts(self, state: int) -> bool:
        """Whether the text may end here. Free text may end, unless the part after the mark is still required."""
        return not self._rest if state < 0 else super().accepts(state)

    def after(self, state: int, token: int) -> int:
        """The state after a token; DEAD if the token breaks the grammar between the marks."""
        if token in self._tokens.vocab.end_tokens:
            return state if self.accepts(state) else DEAD
        if state < 0 and token == self._begin:
            return self._freed(self._inside)
        following = super().after(state, token) if state > 0 else DEAD
        if following != DEAD:
            return self._freed(following)
        data = self._seen(token) if state < 0 else self._piece(token)
        return self._through(state, data) if data or state < 0 else DEAD

    def only_token(self, state: int) -> int | None:
        """None in free text."""
        return None if state < 0 else super().only_token(state)

    def _mask(self, state: int) -> NDArray[np.bool_]:
        """In free text, all tokens except those that complete the mark and then break the grammar."""
        if state > 0:
            return super()._mask(state)
        able, before = np.ones(self._tokens.vocab.size, dtype=bool), self._begins[: -1 - state]
        for token in range(len(able)):
            if self._begins in before + self._seen(token):
                able[token] = self.after(state, token) != DEAD
        if self._rest:
            able[list(self._tokens.vocab.end_tokens)] = False
        return able

    def governed(self, state: int, token: int) -> bytes:
        """The part of a token's bytes that the grammar controls; in free text, the bytes after the mark."""
        if state >= 0:
            return self._piece(token)
        data = self._seen(token)
        _, behind = matched(self._begins, self._borders, -1 - state, data)
        return b"" if behind is None else data[behind:]

    def back_on_track(self) -> int:
        """The free state, until the next mark."""
        return _FREE

    def _piece(self, token: int) -> bytes:
        return self._tokens.vocab.piece(token)

    def _seen(self, token: int) -> bytes:
        """The bytes of a token that may be a part of the mark; for a control token of the mark, its name."""
        return self._named.get(token) or self._piece(token)

    def _through(self, state: int, data: bytes) -> int:
        """The state after bytes that may contain one or more marks."""
        while data and state != DEAD:
            if state < 0:
                length, behind = matched(self._begins, self._borders, -1 - state, data)
                state = -1 - length if behind is None else self._freed(self._inside)
                data = b"" if behind is None else data[behind:]
            else:
                state, data = self._freed(self.automaton.after(state, data[:1])), data[1:]
        return state

    def _freed(self, state: int) -> int:
        """The free state if the text between the marks is complete, or a thought has just begun; else the state."""
        ended = state == self._thinks if self._rest else self.automaton.accepts(state)
        return _FREE if ended else state
