"""GBNF is understood as llama.cpp means it, and mistakes are named with their place."""

import re

import pytest

from twd.grammar import gbnf
from twd.grammar.rules import Alternation, CharClass, Concatenation, OneToken, Ref, Repeat, Terminal
from twd.wire.failures import FailureCode, TwdError

SPECIAL = {"<|think|>": 7}


def root_of(text: str) -> object:
    """The root rule's expression."""
    return gbnf.parse(text, SPECIAL, 100)["root"]


def test_literals_classes_and_references() -> None:
    assert root_of(r'root ::= "a\n\x41\"é"') == Terminal('a\nA"é'.encode())
    assert root_of("root ::= [a-cx]") == CharClass(((97, 99), (120, 120)))
    assert root_of(r"root ::= [\]\-]") == CharClass(((45, 45), (93, 93)))
    assert root_of("root ::= [^\x01-\U0010fffe]") == CharClass(((0x10FFFF, 0x10FFFF),))
    assert root_of("root ::= x-1 # comment\nx-1 ::= .") == Ref("x-1", "line 1, column 10")


def test_structure_and_line_ends() -> None:
    a, b = Terminal(b"a"), Terminal(b"b")
    assert root_of('root ::= "a" |\n "b"') == Alternation((a, b))
    assert root_of('root ::= ("a"\n "b"\n)\r\nx ::= "b"') == Concatenation((a, b))
    assert root_of('root ::=\n "a"') == a
    assert root_of("root ::=") == Concatenation(())
    assert root_of('root ::= "a" |') == Alternation((a, Concatenation(())))


def test_repetitions() -> None:
    a = Terminal(b"a")
    for written, least, most in [("*", 0, None), ("+", 1, None), ("?", 0, 1), ("{3}", 3, 3), ("{1,}", 1, None)]:
        assert root_of(f'root ::= "a"{written}') == Repeat(a, least, most)
    assert root_of('root ::= "a" { 2 , 5 } "a"') == Concatenation((Repeat(a, 2, 5), a))
    assert root_of('root ::= "a"+?') == Repeat(Repeat(a, 1, None), 0, 1)


def test_tokens() -> None:
    assert root_of("root ::= <|think|>") == OneToken(frozenset([7]), negated=False)
    assert root_of("root ::= !<[42]>*") == Repeat(OneToken(frozenset([42]), negated=True), 0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  # only a comment\n", "empty"),
        ("root", "line 1, column 5: '::='"),
        ("::= x", "line 1, column 1: a rule's name"),
        ('root ::= "a"\n | "b"', "line 2, column 2: a rule's name"),
        ('root ::= "a" )', "line 1, column 14: ')' cannot stand here"),
        ('root ::= "a"\nx ::= ("b"', "line 2, column 11: the group that begins at line 2, column 7"),
        ('root ::= "abc', "ends inside a literal"),
        ("root ::= [a-", "ends inside a literal or a class"),
        ("root ::= [z-a]", "this range ends before"),
        (r'root ::= "\q"', "no escape '\\q'"),
        (r'root ::= "\xZZ"', "2 hexadecimal digits"),
        (r'root ::= "\U00110000"', "no such character"),
        (r'root ::= "\uD800"', "surrogate"),
        ('root ::= "a"{', "a number must stand here"),
        ('root ::= "a"{2', "'}' at the end"),
        ('root ::= "a"{3,1}', "this repetition ends before"),
        ('root ::= "a"{99999999999999999999}', "no more than 100000"),
        ("root ::= *", "'*' cannot stand here"),
        ("root ::= <nope>", "no special token <nope>"),
        ("root ::= <nope", "not closed"),
        ("root ::= !x", "'<' must follow"),
        ("root ::= <[100]>", "<[99]>"),
        ("root ::= <[-1]>", "<[99]>"),
        ("root ::= " + "(" * 100_000, "nested more than"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, message: str) -> None:
    with pytest.raises(TwdError, match=re.escape(message)) as caught:
        gbnf.parse(text, SPECIAL, 100)
    assert caught.value.code is FailureCode.BAD_GRAMMAR
