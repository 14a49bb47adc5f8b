"""Grammars over the made-up vocabulary, and texts written at random under them."""

import random

from tests.engine.words import Words
from twd.structured_output.compiled import CompiledGrammar
from twd.structured_output.state import GrammarCache, GrammarState
from twd.wire.job import Grammar, GrammarKind

WORDS = Words()
GRAMMARS = GrammarCache(WORDS)


def schema(text: str) -> CompiledGrammar:
    """The grammar of a JSON schema."""
    return GRAMMARS.compiled(Grammar(kind=GrammarKind.JSON_SCHEMA, text=text))


def takes(grammar: CompiledGrammar, text: str) -> bool:
    """Whether the grammar takes the whole text, byte by byte."""
    return grammar.automaton.accepts(grammar.automaton.after(grammar.automaton.start, text.encode()))


def random_text(grammar: CompiledGrammar, rng: random.Random, longest: int = 400) -> str | None:
    """A whole text that ends where it can with growing zeal; None where it had not ended in time."""
    walk = GrammarState(grammar)
    tokens: list[int] = []
    while len(tokens) < longest:
        able = walk.allowed(tokens).tolist()
        if WORDS.end in able and rng.random() < 0.5:
            return WORDS.text(tokens)
        closing = [token for token in able if WORDS.piece(token)[:1] in (b'"', b"]", b"}", b",")]
        able = closing if closing and rng.random() < 0.5 else [token for token in able if token != WORDS.end]
        if not able:
            return WORDS.text(tokens)
        tokens.append(rng.choice(able))
    return None
