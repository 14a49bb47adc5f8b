"""Grammars allow the tokens that llama.cpp's own grammar sampler allows, and survive everything."""

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_cpp as llama

from tests.engine.llama_samplers import masked
from tests.engine.words import Words
from tests.properties import examples
from twd.engine.model import LoadedGguf
from twd.structured_output.compiled import CompiledGrammar
from twd.structured_output.state import GrammarCache, GrammarState
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

WORDS = Words()
GRAMMARS = GrammarCache(WORDS)


def gbnf(text: str) -> CompiledGrammar:
    """A grammar over the made-up vocabulary."""
    return GRAMMARS.compiled(Grammar(kind=GrammarKind.GBNF, text=text))


def takes(grammar: CompiledGrammar, text: str) -> bool:
    """Whether the grammar takes the whole text, byte by byte."""
    state = grammar.automaton.after(grammar.automaton.start, text.encode())
    return grammar.automaton.accepts(state)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "a" | "ab" | "abc"', ["a", "ab", "abc"], ["", "b", "abcd"]),
        ('root ::= [ab]{2,3} "!"?', ["ab", "bba!", "aa!"], ["a", "aaaa", "ab!!"]),
        ("root ::= [^a-z日]+", ["A本", "é😀"], ["", "a", "日"]),
        ('root ::= "(" root ")" root | ""', ["", "()", "(())()"], ["(", ")("]),
        ('root ::= (("a"?)*)* "b"', ["b", "aaab"], ["", "a"]),
        ('root ::= (x | y)+\nx ::= "a" x "b" | ""\ny ::= "c"', ["", "ab", "aabbcab"], ["a", "aab"]),
        ('root ::= a "x"\na ::= b\nb ::= "q"? c\nc ::= "r"?', ["x", "qx", "rx", "qrx"], ["", "rqx"]),
        ("root ::= .{2}", ["ab", "日😀"], ["a", "abc"]),
        ('root ::= s\ns ::= "a" s "b" | "a" s "c" | "d"', ["d", "adb", "aadbc"], ["ad", "adbb"]),
    ],
)
def test_language(grammar: str, good: list[str], bad: list[str]) -> None:
    made = gbnf(grammar)
    assert [text for text in good if not takes(made, text)] == []
    assert [text for text in bad if takes(made, text)] == []


def test_only_end_tokens_follow_a_complete_text() -> None:
    walk = GrammarState(gbnf('root ::= "no"'))
    token = WORDS.special_tokens
    assert walk.allowed(list(b"no")).tolist() == [WORDS.end]
    assert walk.allows(list(b"no"), WORDS.end)
    assert not walk.allows(list(b"n"), WORDS.end)
    assert not walk.allows(list(b"no"), token["<|think|>"])
    assert walk.allowed([*b"no", WORDS.end]).tolist() == [WORDS.end]


def test_a_character_may_be_spread_over_tokens() -> None:
    walk = GrammarState(gbnf("root ::= [é日]"))
    data = "日".encode()
    assert set(walk.allowed([]).tolist()) == {0xC3, data[0], 256 + 14}
    assert walk.allowed([data[0]]).tolist() == [data[1]]
    assert walk.allowed(list(data)).tolist() == [WORDS.end]


def test_control_tokens_come_only_where_they_are_named() -> None:
    walk = GrammarState(gbnf("root ::= <|think|> [a-c]+ <|think|> !<[97]>"))
    think = WORDS.special_tokens["<|think|>"]
    assert walk.allowed([]).tolist() == [think]
    assert think not in walk.allowed([think])
    assert think in walk.allowed([think, 97])
    last = walk.allowed([think, 97, think]).tolist()
    assert 97 not in last
    assert WORDS.end not in last
    assert 98 in last
    assert think in last
    assert walk.allowed([think, 97, think, 98]).tolist() == [WORDS.end]


@pytest.mark.parametrize(
    ("grammar", "left_out"),
    [
        ("root ::= !<[97]> | !<[97]>", {97}),
        ("root ::= !<[97]> | !<[98]>", set()),
        ("root ::= !<[97]> | <[97]>", set()),
        ('root ::= !<[97]> | "ab"', set()),
    ],
)
def test_several_conditions_on_one_token(grammar: str, left_out: set[int]) -> None:
    words = set(range(WORDS.size)) - {WORDS.end}
    assert set(GrammarState(gbnf(grammar)).allowed([]).tolist()) == words - left_out


def test_thousands_of_named_tokens_cost_next_to_nothing_each() -> None:
    class Many(Words):
        def __init__(self) -> None:
            super().__init__(str(number) for number in range(100_000))

    names = " | ".join(f"<[{token}]>" for token in range(256, 20_256))
    grammars = GrammarCache(Many())
    grammars.prepare()
    walk = GrammarState(grammars.compiled(Grammar(kind=GrammarKind.GBNF, text=f"root ::= {names}")))
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        allowed = walk.allowed([])
    finally:
        sys.setprofile(None)
    assert allowed.tolist() == list(range(256, 20_256))
    assert calls < 2 * 20_000, "each goes through the whole vocabulary"


def test_a_walk_answers_the_same_on_every_branch_in_any_order() -> None:
    grammar = gbnf('root ::= "[" (item ("," item)*)? "]"\nitem ::= root | [0-9]+ | "true"')
    rng = random.Random(3)
    texts = [random_text(GrammarState(grammar), 30, rng) for _ in range(8)]
    histories = [text[:length] for text in texts for length in range(len(text))]
    fresh = [GrammarState(grammar).allowed(history).tolist() for history in histories]
    walk = GrammarState(grammar)
    for index in rng.choices(range(len(histories)), k=400):
        assert walk.allowed(histories[index]).tolist() == fresh[index]


def test_a_crowded_automaton_is_replaced_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.grammar.automaton._STATES_CROWD", 30)
    crowded = GrammarCache(WORDS).compiled(Grammar(kind=GrammarKind.GBNF, text='root ::= "(" root ")" | "a" | "b"'))
    first = crowded.automaton
    walk, other = GrammarState(crowded), GrammarState(crowded)
    for depth in range(60):
        history = [ord("(")] * depth
        assert set(walk.allowed(history).tolist()) == {ord("("), ord("a"), ord("b"), 256 + WORDS_INDEX["a"]}
        assert other.allows([*history[:20], ord("a")], ord(")")) == (depth > 0)
    assert crowded.automaton is not first


class Slow(Words):
    """Its control tokens, which every GBNF grammar asks for, can be held back."""

    def __init__(self) -> None:
        self.asked, self.told = threading.Event(), threading.Event()
        super().__init__()

    @property
    def special_tokens(self) -> dict[str, int]:
        self.asked.set()
        assert self.told.wait(30)
        return {}

    @special_tokens.setter
    def special_tokens(self, tokens: dict[str, int]) -> None:
        pass


def test_a_grammar_that_is_there_does_not_wait_for_one_that_is_being_made() -> None:
    vocab = Slow()
    grammars = GrammarCache(vocab)
    known = grammars.compiled(Grammar(kind=GrammarKind.JSON))
    with ThreadPoolExecutor() as pool:
        making = pool.submit(grammars.compiled, Grammar(kind=GrammarKind.GBNF, text='root ::= "a"'))
        assert vocab.asked.wait(30)
        again = pool.submit(grammars.compiled, Grammar(kind=GrammarKind.JSON))
        try:
            assert again.result(5) is known
        finally:
            vocab.told.set()
        assert making.result(30) is not known


WORDS_INDEX = {WORDS.piece(256 + index).decode(): index for index in range(WORDS.size - 258)}


def random_text(walk: GrammarState, longest: int, rng: random.Random) -> list[int]:
    """A text of the grammar, up to its end or to a length."""
    tokens: list[int] = []
    while len(tokens) < longest:
        able = [token for token in walk.allowed(tokens).tolist() if token != WORDS.end]
        if not able:
            break
        tokens.append(rng.choice(able))
    return tokens


HOSTILE = {
    "left recursion": 'root ::= root "a" | "b"',
    "hidden left recursion": 'root ::= x root "b" | "c"\nx ::= y\ny ::= "" | "q"',
    "mutual left recursion": 'root ::= a\na ::= b "x" | "y"\nb ::= a "z" | "w"',
    "itself": "root ::= root",
    "without end": 'root ::= "a" root',
    "an undefined rule": 'root ::= "a" | missing',
    "no root": 'start ::= "a"',
    "an empty class": "root ::= []",
    "too much text": 'root ::= "' + "a" * 150_000 + '"',
    "an end token": "root ::= <|end|>",
    "too many classes": "root ::= " + " ".join(f"[^{chr(0x4E00 + i)}]" for i in range(20_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_impossible_grammars_are_refused(name: str) -> None:
    with pytest.raises(TwdError) as caught:
        gbnf(HOSTILE[name])
    assert caught.value.code is FailureCode.BAD_GRAMMAR


DEMANDING = {
    "doubling stacks": "root ::= a0\n"
    + "".join(f'a{i} ::= "a" a{i + 1} "b" | "a" a{i + 1} "c"\n' for i in range(60))
    + 'a60 ::= "z"',
    "doubling before the first byte": "root ::= a0\n"
    + "".join(f'a{i} ::= a{i + 1} "b" | a{i + 1} "c"\n' for i in range(60))
    + 'a60 ::= "z"',
    "doubling calls": "root ::= a0\n"
    + "".join(f'a{i} ::= a{i + 1} | a{i + 1} "x"\n' for i in range(60))
    + 'a60 ::= "z"',
    "a long chain": "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}\n" for i in range(3000)) + 'a3000 ::= "z"',
    "nested repetition": 'root ::= ((("a"{50}){50}){50}){50}',
    "huge repetition": 'root ::= ("a"{1000} "b"){1000} [a-z]{5,100000}',
    "many words": "root ::= " + " | ".join(f'"word{i}"' for i in range(5000)),
    "ambiguous sums": 'root ::= "a" | "a" root | "a" root root',
}


@pytest.mark.parametrize("name", DEMANDING)
def test_demanding_grammars_are_followed(name: str) -> None:
    walk = GrammarState(gbnf(DEMANDING[name]))
    assert random_text(walk, 40, random.Random(1))


@given(st.text(alphabet='root:= "ab\\x[]()^-*+?{1,2}|<>!#.\n', max_size=60))
@examples(300)
def test_random_text_is_a_grammar_or_a_typed_failure(text: str) -> None:
    try:
        walk = GrammarState(gbnf("root ::= " + text))
        walk.allowed([])
    except TwdError as error:
        if error.code is not FailureCode.BAD_GRAMMAR:
            raise


def test_a_text_outside_the_grammar_is_a_typed_failure() -> None:
    walk = GrammarState(gbnf('root ::= "abc"'))
    with pytest.raises(TwdError, match="Token 1 of the text"):
        walk.allowed([97, 97])
    assert walk.allows([97], 98)


REAL = {
    "json": r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
""",
    "words": 'root ::= [a-z]+ (" " [a-z]+)* "."',
    "chinese": 'root ::= [一-龥]{3,7} "!"?',
    "mixed": 'root ::= ("😀" | [α-ω] | "é")+',
    "answers": 'root ::= "yes" | "no" | "maybe"',
    "brackets": 'root ::= "(" root ")" root | "[" root "]" | ""',
    "ambiguous": 'root ::= s\ns ::= "a" s "b" | "a" s "c" | "d"',
}


@pytest.fixture(scope="module")
def real(q4: LoadedGguf) -> GrammarCache:
    """The grammars of a real vocabulary."""
    return GrammarCache(q4.vocab)


@pytest.mark.model
@pytest.mark.parametrize("name", REAL)
def test_masks_are_llamas_on_a_real_vocabulary(name: str, q4: LoadedGguf, real: GrammarCache) -> None:
    vocab = q4.vocab
    walk = GrammarState(real.compiled(Grammar(kind=GrammarKind.GBNF, text=REAL[name])))
    sampler = llama.llama_sampler_init_grammar(llama.llama_model_get_vocab(q4.handle), REAL[name].encode(), b"root")
    rng, history = random.Random(5), list[int]()
    visible = np.array([bool(vocab.piece(t)) or t in vocab.end_tokens for t in range(vocab.size)])
    for _ in range(12):
        ours = walk.allowed(history)
        theirs = masked(sampler, vocab.size)
        assert ours.tolist() == theirs[visible[theirs]].tolist()
        able = [token for token in ours.tolist() if token not in vocab.end_tokens]
        if not able:
            break
        history.append(rng.choice(able))
        llama.llama_sampler_accept(sampler, history[-1])
    llama.llama_sampler_free(sampler)
