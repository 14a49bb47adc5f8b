"""Follows texts through grammars, and caches the grammars compiled for one model's vocabulary."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twd.grammar.automaton import DEAD
from twd.grammar.rules import bad_grammar
from twd.grammar.token_trie import TokenTrie
from twd.structured_output.compiled import CompiledGrammar, GrammarVocabulary
from twd.structured_output.marked import MarkedGrammar
from twd.wire.failures import TwdError
from twd.wire.job import Grammar
from twd.wire.prefix import common_prefix

_GRAMMARS_KEPT = 8


class GrammarState:
    """Follows one text through a grammar. Callers may ask about any branch of the text, in any order."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._automaton = grammar.automaton
        self._tokens: list[int] = []
        self._states: list[int] = [grammar.start]

    def allows(self, generated: Sequence[int], token: int) -> bool:
        """Whether the token may follow the generated tokens."""
        return self._grammar.after(self._at(generated), token) != DEAD

    def allowed(self, generated: Sequence[int]) -> NDArray[np.intp]:
        """The tokens that may follow the generated tokens, in ascending order; raises TwdError if there are none."""
        tokens = self._grammar.allowed(self._at(generated))
        if not len(tokens):
            raise bad_grammar("No token of this model can continue the text as the grammar demands.")
        return tokens

    def _at(self, generated: Sequence[int]) -> int:
        """The state after the generated tokens. The states of the last call are reused."""
        if self._grammar.renew() is not self._automaton:
            self._automaton = self._grammar.automaton
            self._tokens, self._states = [], [self._grammar.start]
        self._go_back(common_prefix(self._tokens, generated))
        for token in generated[len(self._tokens) :]:
            following = self._grammar.after(self._states[-1], token)
            if following == DEAD:
                raise bad_grammar(f"Token {len(self._tokens)} of the text so far does not follow the grammar.")
            self._tokens.append(token)
            self._states.append(following)
        return self._states[-1]

    def _go_back(self, length: int) -> None:
        del self._tokens[length:]
        del self._states[length + 1 :]


class GrammarCache:
    """The grammars compiled for one model's vocabulary, and the trie of its tokens."""

    def __init__(self, vocab: GrammarVocabulary) -> None:
        self.vocab = vocab
        self._made: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def compiled(self, grammar: Grammar) -> CompiledGrammar:
        """The compiled grammar; raises BAD_GRAMMAR with the place of the error. The latest grammars are cached.

        Only one grammar is compiled at a time. A call for a cached one does not wait.
        """
        found = self._kept(grammar)
        if found is None:
            with self._making:
                found = self._kept(grammar) or self._keep(grammar, self._make(grammar))
        return found

    def _kept(self, grammar: Grammar) -> CompiledGrammar | None:
        with self._lock:
            if grammar in self._made:
                self._made.move_to_end(grammar)
            return self._made.get(grammar)

    def _keep(self, grammar: Grammar, made: CompiledGrammar) -> CompiledGrammar:
        with self._lock:
            self._made[grammar] = made
            if len(self._made) > _GRAMMARS_KEPT:
                self._made.popitem(last=False)
        return made

    def _make(self, grammar: Grammar) -> CompiledGrammar:
        try:
            return MarkedGrammar(grammar, self) if grammar.begins else CompiledGrammar(grammar, self)
        except RecursionError:
            raise bad_grammar("The grammar is nested too deep.", grammar.field) from None
        except TwdError as error:
            raise TwdError(error.code, str(error), grammar.field) from None

    def prepare(self) -> None:
        """Build the trie and the list of control tokens now. Otherwise the first grammar would wait for them."""
        _ = self.trie, self.vocab.special_tokens

    @cached_property
    def trie(self) -> TokenTrie:
        """The trie of all tokens except end tokens."""
        ends = self.vocab.end_tokens
        return TokenTrie((token for token in range(self.vocab.size) if token not in ends), self.vocab.piece)
