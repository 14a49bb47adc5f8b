"""Grammars over tokens: what may follow a text, in a given model's vocabulary."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twd.engine.grammars import gbnf, json_schema
from twd.engine.grammars.automaton import DEAD, Automaton
from twd.engine.grammars.json_layout import Habits
from twd.engine.grammars.program import Program, build
from twd.engine.grammars.rules import Expr, OneToken, bad_grammar, flattened
from twd.engine.grammars.token_trie import TokenTrie
from twd.engine.slots import common_prefix
from twd.wire.job import Grammar, GrammarKind

_GRAMMARS_KEPT = 8
_MASKS_KEPT = 64


class Vocabulary(Protocol):
    """What a grammar needs to know of a model's tokens."""

    @property
    def size(self) -> int:
        """How many tokens there are."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends the text."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Control tokens by their name."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""


class CompiledGrammar:
    """One grammar for one vocabulary, shared by all texts that use it. For one thread, but for its making."""

    def __init__(self, grammar: Grammar, owner: "Grammars") -> None:
        self._owner = owner
        self._program = _program_of(grammar, owner.vocab)
        self._masks: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self.automaton = Automaton(self._program)
        self.habits = Habits()
        """How texts of this grammar were laid out."""
        self.spelled: dict[int, int] = {}
        """The token that was said last in a state."""

    def renew(self) -> Automaton:
        """The automaton, or a fresh one where it remembers too much; states of the old one are then void."""
        if self.automaton.crowded:
            self._masks.clear()
            self.spelled.clear()
            self.automaton = Automaton(self._program)
        return self.automaton

    def after(self, state: int, token: int) -> int:
        """The state after a token; DEAD where the grammar does not allow it."""
        automaton = self.automaton
        if token in self._owner.vocab.end_tokens:
            return state if automaton.accepts(state) else DEAD
        piece = self._owner.vocab.piece(token)
        following = automaton.after(state, piece) if piece else DEAD
        conditions = self._met(state, token)
        return automaton.after_token(state, conditions, following) if conditions else following

    def only_token(self, state: int) -> int | None:
        """The token that the grammar names as the only one that may come next."""
        number = self.automaton.only_condition(state)
        condition = None if number is None else self._program.tokens[number]
        return next(iter(condition.ids)) if condition and len(condition.ids) == 1 and not condition.negated else None

    def allowed(self, state: int) -> NDArray[np.intp]:
        """All tokens that may come next, ascending; end tokens where the text may end."""
        if state not in self._masks:
            self._masks[state] = np.packbits(self._mask(state))
        self._masks.move_to_end(state)
        if len(self._masks) > _MASKS_KEPT:
            self._masks.popitem(last=False)
        return np.flatnonzero(np.unpackbits(self._masks[state], count=self._owner.vocab.size))

    def _mask(self, state: int) -> NDArray[np.bool_]:
        ends = self._owner.vocab.end_tokens
        able = np.zeros(self._owner.vocab.size, dtype=bool)
        if self.automaton.goes_on(state):
            self._owner.trie.mark_fitting(self.automaton, state, able)
            for number in self.automaton.token_conditions(state):
                condition = self._program.tokens[number]
                named = np.isin(np.arange(len(able)), list(condition.ids))
                able |= ~named if condition.negated else named
        able[list(ends)] = self.automaton.accepts(state)
        return able

    def _met(self, state: int, token: int) -> list[int]:
        if not self._program.tokens:
            return []
        conditions = self.automaton.token_conditions(state)
        return [number for number in conditions if _meets(token, self._program.tokens[number])]


class GrammarWalk:
    """Follows one text through a grammar; it may be asked about any branch, in any order."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._automaton = grammar.automaton
        self._tokens: list[int] = []
        self._states: list[int] = [grammar.automaton.start]

    def allows(self, generated: Sequence[int], token: int) -> bool:
        """Whether the token may follow these."""
        return self._grammar.after(self._at(generated), token) != DEAD

    def allowed(self, generated: Sequence[int]) -> NDArray[np.intp]:
        """The tokens that may follow these, ascending; there is at least one."""
        tokens = self._grammar.allowed(self._at(generated))
        if not len(tokens):
            raise bad_grammar("No token of this model can continue the text as the grammar demands.")
        return tokens

    def _at(self, generated: Sequence[int]) -> int:
        """The state after these tokens; those of the last call are remembered."""
        if self._grammar.renew() is not self._automaton:
            self._automaton = self._grammar.automaton
            self._tokens, self._states = [], [self._automaton.start]
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


class Grammars:
    """The grammars made for one model's vocabulary, and its pieces as a tree."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab
        self._made: OrderedDict[tuple[GrammarKind, str], CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def compiled(self, grammar: Grammar) -> CompiledGrammar:
        """The grammar made ready; raises BAD_GRAMMAR with the place of the mistake. The latest ones are kept.

        One is made at a time; those that are there already wait for none.
        """
        found = self._kept(grammar)
        if found is None:
            with self._making:
                found = self._kept(grammar) or self._keep(grammar, self._make(grammar))
        return found

    def _kept(self, grammar: Grammar) -> CompiledGrammar | None:
        key = (grammar.kind, grammar.text)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key)

    def _keep(self, grammar: Grammar, made: CompiledGrammar) -> CompiledGrammar:
        with self._lock:
            self._made[grammar.kind, grammar.text] = made
            if len(self._made) > _GRAMMARS_KEPT:
                self._made.popitem(last=False)
        return made

    def _make(self, grammar: Grammar) -> CompiledGrammar:
        try:
            return CompiledGrammar(grammar, self)
        except RecursionError:
            raise bad_grammar("The grammar is nested too deep.") from None

    def prepare(self) -> None:
        """Do now, on a thread that may wait, what the first grammar would otherwise wait for."""
        _ = self.trie, self.vocab.special_tokens

    @cached_property
    def trie(self) -> TokenTrie:
        """Every piece but those of end tokens."""
        ends = self.vocab.end_tokens
        return TokenTrie((token for token in range(self.vocab.size) if token not in ends), self.vocab.piece)


def _program_of(grammar: Grammar, vocab: Vocabulary) -> Program:
    program = build(flattened(_rules_of(grammar, vocab), "root"))
    for condition in program.tokens:
        if condition.ids & vocab.end_tokens:
            raise bad_grammar("The grammar names a token that ends the text; it ends by itself where it is complete.")
    return program


def _rules_of(grammar: Grammar, vocab: Vocabulary) -> dict[str, Expr]:
    match grammar.kind:
        case GrammarKind.GBNF:
            return gbnf.parse(grammar.text, vocab.special_tokens, vocab.size)
        case GrammarKind.JSON_SCHEMA:
            return json_schema.parse(grammar.text)
        case GrammarKind.JSON:
            return json_schema.any_object()


def _meets(token: int, condition: OneToken) -> bool:
    return (token in condition.ids) != condition.negated
