"""One grammar compiled for one vocabulary: for each state, which tokens may follow."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twd.chat.tool_calls import rules as call_rules
from twd.grammar import gbnf
from twd.grammar.automaton import DEAD, Automaton
from twd.grammar.json import schema as json_schema
from twd.grammar.json.layout import WhitespaceHabits
from twd.grammar.marks import behind, between
from twd.grammar.program import GrammarProgram, build
from twd.grammar.rules import Concatenation, Expr, OneToken, Terminal, bad_grammar, flattened
from twd.grammar.token_trie import TokenTrie
from twd.wire.job import Grammar, GrammarKind

_MASKS_KEPT = 64


class GrammarVocabulary(Protocol):
    """What a grammar needs to know about a model's tokens."""

    @property
    def size(self) -> int:
        """How many tokens there are."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends the text."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of control tokens by their names."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""


class GrammarTokens(Protocol):
    """A model's vocabulary, and the bytes of its tokens as a trie."""

    vocab: GrammarVocabulary

    @property
    def trie(self) -> TokenTrie:
        """The trie of all tokens except end tokens."""


class CompiledGrammar:
    """One grammar for one vocabulary, shared by all texts that use it.

    It may be made on any thread; then only one thread may use it.
    """

    def __init__(self, grammar: Grammar, tokens: GrammarTokens) -> None:
        self._tokens = tokens
        self._program = _program_of(grammar, tokens.vocab)
        self._masks: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self.automaton = Automaton(self._program)
        self.habits = WhitespaceHabits()
        """The whitespace that earlier texts of this grammar used."""
        self.spelled: dict[int, int] = {}
        """For each state, the token that came last in it."""

    @property
    def start(self) -> int:
        """The state at the beginning of the text."""
        return self.automaton.start

    def accepts(self, state: int) -> bool:
        """Whether the text may end here."""
        return self.automaton.accepts(state)

    def governed(self, state: int, token: int) -> bytes:
        """The part of a token's bytes that the grammar controls."""
        return self._tokens.vocab.piece(token)

    def back_on_track(self) -> int:
        """The state after a token that breaks the grammar, for a grammar that is not enforced."""
        return DEAD

    def renew(self) -> Automaton:
        """The automaton, or a new one if the old one holds too many states. Then all old states are invalid."""
        if self.automaton.crowded:
            self._masks.clear()
            self.spelled.clear()
            self.automaton = Automaton(self._program)
        return self.automaton

    def after(self, state: int, token: int) -> int:
        """The state after a token; DEAD if the grammar does not allow the token."""
        automaton = self.automaton
        if token in self._tokens.vocab.end_tokens:
            return state if automaton.accepts(state) else DEAD
        piece = self._tokens.vocab.piece(token)
        following = automaton.after(state, piece) if piece else DEAD
        conditions = self._met(state, token)
        return automaton.after_token(state, conditions, following) if conditions else following

    def only_token(self, state: int) -> int | None:
        """The next token, if the grammar names it as the only one that may follow; else None."""
        number = self.automaton.only_condition(state)
        condition = None if number is None else self._program.tokens[number]
        return next(iter(condition.ids)) if condition and len(condition.ids) == 1 and not condition.negated else None

    def allowed(self, state: int) -> NDArray[np.intp]:
        """All tokens that may come next, in ascending order; with the end tokens if the text may end here."""
        if state not in self._masks:
            self._masks[state] = np.packbits(self._mask(state))
        self._masks.move_to_end(state)
        if len(self._masks) > _MASKS_KEPT:
            self._masks.popitem(last=False)
        return np.flatnonzero(np.unpackbits(self._masks[state], count=self._tokens.vocab.size))

    def _mask(self, state: int) -> NDArray[np.bool_]:
        ends = self._tokens.vocab.end_tokens
        able = np.zeros(self._tokens.vocab.size, dtype=bool)
        if self.automaton.goes_on(state):
            self._tokens.trie.mark_fitting(self.automaton, state, able)
            self._mark_named(state, able)
        able[list(ends)] = self.automaton.accepts(state)
        return able

    def _mark_named(self, state: int, able: NDArray[np.bool_]) -> None:
        """Set `able` for the tokens that meet a token condition; a grammar may name thousands of tokens."""
        conditions = [self._program.tokens[number] for number in self.automaton.token_conditions(state)]
        barred = [condition.ids for condition in conditions if condition.negated]
        if barred:
            by_all = list(frozenset.intersection(*barred))
            kept = able[by_all]
            able[:] = True
            able[by_all] = kept
        able[[token for condition in conditions if not condition.negated for token in condition.ids]] = True

    def _met(self, state: int, token: int) -> list[int]:
        if not self._program.tokens:
            return []
        conditions = self.automaton.token_conditions(state)
        return [number for number in conditions if _meets(token, self._program.tokens[number])]


def bare_token(vocab: GrammarVocabulary, mark: str) -> int | None:
    """The control token of this name, if it adds no bytes to a text; else None. A text cannot be searched for it."""
    token = vocab.special_tokens.get(mark) if mark else None
    return None if token is None or vocab.piece(token) else token


def _program_of(grammar: Grammar, vocab: GrammarVocabulary) -> GrammarProgram:
    rules = _rules_of(grammar, vocab)
    if grammar.rest:
        rules = behind(rules, written_mark(vocab, grammar.opens) if grammar.opens else None)
    elif grammar.begins:
        rules = between(rules, written_mark(vocab, grammar.ends))
    program = build(flattened(rules, "root"))
    for condition in program.tokens:
        if condition.ids & vocab.end_tokens:
            raise bad_grammar("The grammar names a token that ends the text; it ends by itself where it is complete.")
    return program


def _rules_of(grammar: Grammar, vocab: GrammarVocabulary) -> dict[str, Expr]:
    match grammar.kind:
        case GrammarKind.GBNF:
            return gbnf.parse(grammar.text, vocab.special_tokens, vocab.size)
        case GrammarKind.JSON_SCHEMA:
            return json_schema.parse(grammar.text)
        case GrammarKind.CALLS:
            return call_rules.parse(grammar.text, cache(partial(written_mark, vocab)))
        case GrammarKind.JSON:
            return json_schema.any_object()


def bare_tokens(vocab: GrammarVocabulary, mark: str) -> dict[str, int]:
    """The control tokens in a mark that add no bytes to a text, by their names."""
    found = {name: bare_token(vocab, name) for name in vocab.special_tokens if name and name in mark}
    return {name: token for name, token in found.items() if token is not None}


def mark_parts(vocab: GrammarVocabulary, mark: str) -> list[OneToken | Terminal]:
    """The parts of a mark: text as bytes, and control tokens without bytes as tokens."""
    bare = bare_tokens(vocab, mark)
    if not bare:
        return [Terminal(mark.encode())]
    names = re.compile("|".join(map(re.escape, sorted(bare, key=len, reverse=True))))
    parts: list[OneToken | Terminal] = []
    at = 0
    for found in names.finditer(mark):
        parts += [Terminal(mark[at : found.start()].encode()), OneToken(frozenset([bare[found[0]]]), False)]
        at = found.end()
    return [part for part in (*parts, Terminal(mark[at:].encode())) if part != Terminal(b"")]


def written_mark(vocab: GrammarVocabulary, mark: str) -> Concatenation:
    """A mark as a grammar expression."""
    return Concatenation(tuple(mark_parts(vocab, mark)))


def _meets(token: int, condition: OneToken) -> bool:
    return (token in condition.ids) != condition.negated
