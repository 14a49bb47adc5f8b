"""What a grammar demands is found, whole and no more; and nothing that is proposed breaks it."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.words import Words
from twd.decoding.sampler import SamplerFactory
from twd.engine.model import LoadedGguf
from twd.structured_output.forced_tokens import LAST, SPELLED, SURE, USUAL, ForcedTokens
from twd.structured_output.state import GrammarState
from twd.wire.job import Grammar, GrammarKind

WORDS = Words()
PICKERS = SamplerFactory(WORDS)


def schema(**properties: Any) -> Grammar:
    made = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(made))


def gbnf(text: str) -> Grammar:
    return Grammar(kind=GrammarKind.GBNF, text=text)


PERSON = schema(name={"type": "string"}, age={"type": "integer"}, kind={"enum": ["alpha", "beta"]})


def ahead(grammar: Grammar, text: str = "") -> ForcedTokens:
    made = SamplerFactory(WORDS).ahead(grammar)  # its own, for texts of one grammar share their manner
    made.extend(WORDS.continued(text))
    return made


def proposed(grammar: Grammar, text: str = "") -> str:
    return WORDS.text(ahead(grammar, text).propose(99)[0])


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("", '{"name": "'),
        ("{", '"name": "'),
        ('{"na', 'me": "'),
        ('{"name": "', ""),
        ('{"name": "x', ""),
        ('{"name": "x"', ', "age":'),
        ('{"name": "x", "age": ', ""),
        ('{"name": "x", "age": 3', ""),
        ('{"name": "x", "age": 3,', ' "kind": "'),
        ('{"name":"x","age":3,', '"kind":"'),
        ('{\n  "name": "x",\n  "age": 3,', '\n  "kind": "'),
        ('{\n  "name": "x",\n', '  "age":'),
        ('{"name": "x", "age": 3, "kind": "b', 'eta"}'),
        ('{\n  "name": "x",\n  "age": 3,\n  "kind": "b', 'eta"\n}'),
        ('{"name": "x", "age": 3, "kind": "beta"}', ""),
    ],
)
def test_what_a_schema_demands(text: str, following: str) -> None:
    assert proposed(PERSON, text) == following


@pytest.mark.parametrize(
    ("grammar", "text", "following"),
    [
        ('root ::= "yes, " [a-z] " and no"', "", "yes, "),
        ('root ::= "yes, " [a-z] " and no"', "yes, k", " and no"),
        ('root ::= "maybe" | "mayor"', "", "may"),
        ('root ::= "a"? "b"', "", ""),
        ('root ::= "ab" "c"?', "", "ab"),
        ('root ::= [é日] "x"', "", ""),
        ('root ::= "é日"', "", "é日"),
        ('root ::= [日本] "!"', "", ""),
        ('root ::= "a " " "? "b"', "a", " "),
    ],
)
def test_any_grammar(grammar: str, text: str, following: str) -> None:
    assert proposed(gbnf(grammar), text) == following


def test_a_part_of_a_character_is_no_text() -> None:
    made = ahead(gbnf('root ::= "日"'))
    made.extend([0xE6])
    assert made.propose(9) == ([], [])


def test_tokens_that_the_grammar_names_are_proposed_as_such() -> None:
    think = WORDS.special_tokens["<|think|>"]
    made = ahead(gbnf('root ::= <|think|> "abc" <|think|> ("yes" | "no")'))
    tokens, sure = made.propose(99)
    assert (tokens, sure) == ([think, *WORDS.continued("abc"), think], [SPELLED, LAST, SPELLED])
    made.extend([think])
    assert made.propose(99)[0] == [*WORDS.continued("abc"), think]
    assert ahead(gbnf("root ::= !<|think|> | [a]")).propose(9) == ([], [])
    assert ahead(gbnf("root ::= <|think|> | [a]")).propose(9) == ([], [])


def test_how_sure_it_is() -> None:
    tokens, sure = ahead(PERSON).propose(99)
    assert WORDS.text(tokens[:1]) == '{"'
    assert (sure[0], set(sure[1:-1]), sure[-1]) == (USUAL, {SURE}, LAST)
    tokens, sure = ahead(PERSON, '{"n').propose(99)
    assert [WORDS.text([token]) for token in tokens] == ["a", "m", "e", '": "']
    assert sure == [SURE, SURE, SURE, LAST]


LIST = gbnf('root ::= "[" item ("," item)* "]"\nitem ::= "name:" [a-z]')


def test_what_was_spelled_otherwise_is_so_the_next_time() -> None:
    samplers = SamplerFactory(WORDS)
    first, letters = samplers.ahead(LIST), list(b"[name:")
    first.extend([*letters, *b"x,name:y,"])
    assert first.propose(99) == (letters[1:], [SPELLED] * 5)
    second = samplers.ahead(LIST)
    assert second.propose(99) == (letters, [SPELLED] * 6)
    second.extend(list(b"[name:x"))
    assert second.propose(99) == ([], []), "what was free is free again"


def test_blanks_are_remembered_by_their_place() -> None:
    samplers = SamplerFactory(WORDS)
    samplers.ahead(PERSON).extend(list(b'{\n "name": "x","age": 1,\t'))  # no manner at all
    again = samplers.ahead(PERSON)
    assert WORDS.text(again.propose(99)[0]) == '{\n "name": "'
    again.extend(list(b'{\n "name": "y'))
    again.extend(WORDS.continued('",'))
    assert WORDS.text(again.propose(99)[0]).startswith('"age":')


def test_no_more_than_is_asked_for() -> None:
    made = ahead(PERSON, "{")
    tokens, sure = made.propose(99)
    assert made.propose(3) == (tokens[:3], sure[:3])
    assert made.propose(0) == ([], [])


def test_what_breaks_the_grammar_has_nothing_behind_it() -> None:
    assert ahead(PERSON).propose(9, WORDS.continued('{"nobody')) == ([], [])
    broken = ahead(PERSON, '{"nobody')
    broken.extend(WORDS.continued("x"))
    assert broken.propose(9) == ([], [])


def test_too_ambiguous_a_grammar_is_for_whoever_picks_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ahead(gbnf('root ::= ("a" | "aa" | x)* "b"\nx ::= "aa" | "a" x'))
    monkeypatch.setattr("twd.grammar.automaton._EFFORT_MAX", 0)
    assert made.propose(9, WORDS.continued("aaaaaa")) == ([], [])


GRAMMARS = [
    PERSON,
    schema(a={"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, b={"const": "no end of it"}),
    schema(o={"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}),
    gbnf('root ::= "[" (item ("," item)*)? "]"\nitem ::= root | "12" | "true"'),
    gbnf('root ::= <|think|> [a-c]+ <|think|> "no" "t"?'),
]


def random_text(grammar: Grammar, length: int, dice: random.Random) -> list[int]:
    walk = GrammarState(PICKERS.grammars.compiled(grammar))
    text: list[int] = []
    while len(text) < length:
        allowed = walk.allowed(text).tolist()
        text.append(dice.choice(allowed))
        if text[-1] == WORDS.end:
            return text[:-1]
    return text


@given(st.sampled_from(GRAMMARS), st.integers(0, 40), st.integers(0, 40), st.integers(0, 1 << 30))
def test_what_is_proposed_fits_and_looking_beyond_is_going_there(
    grammar: Grammar, known: int, length: int, seed: int
) -> None:
    text = random_text(grammar, length, random.Random(seed))
    walk = GrammarState(PICKERS.grammars.compiled(grammar))
    there, short = PICKERS.ahead(grammar), PICKERS.ahead(grammar)
    there.extend(text[:known])
    short.extend(text[:known])
    habits = PICKERS.grammars.compiled(grammar).habits
    told = (dict(habits.blanks), habits.unit)
    there.extend(text[known:])
    tokens, sure = there.propose(50)
    assert len(tokens) == len(sure)
    for place, token in enumerate(tokens):
        assert walk.allows([*text, *tokens[:place]], token)
    habits.blanks, habits.unit = dict(told[0]), told[1]  # who looks has not gone there
    assert WORDS.text(short.propose(50, text[known:])[0]) == WORDS.text(tokens)
    assert (habits.blanks, habits.unit) == told, "a look ahead is no habit"


def test_a_crowded_automaton_is_replaced_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = gbnf('root ::= "(" root ")" | "a"')
    made, samplers = ahead(grammar, "(" * 20 + "a"), SamplerFactory(WORDS)
    first = samplers.ahead(grammar)
    first.extend(WORDS.continued("(" * 20 + "a"))
    monkeypatch.setattr("twd.grammar.automaton._STATES_CROWD", 5)
    assert first.propose(99) == made.propose(99)
    assert WORDS.text(first.propose(99)[0]) == ")" * 20


def test_with_a_real_vocabulary(q4: LoadedGguf) -> None:
    samplers = SamplerFactory(q4.vocab)
    made = samplers.ahead(PERSON)
    text: list[int] = []
    for part in ("{", '"name": "Ada Lovelace', '",', ' "age": 36,'):
        text += q4.vocab.plain(part)
        made.extend(q4.vocab.plain(part))
    tokens, _ = made.propose(99)
    assert q4.vocab.text(tokens) == ' "kind": "'
    assert len(tokens) < 6
    walk = GrammarState(samplers.grammars.compiled(PERSON))
    assert all(walk.allows([*text, *tokens[:place]], token) for place, token in enumerate(tokens))


def test_an_automaton_that_was_replaced_meanwhile_is_followed_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = gbnf('root ::= "(" root ")" | "[" root "]" | "a"')
    samplers = SamplerFactory(WORDS)
    one, other = samplers.ahead(grammar), samplers.ahead(grammar)
    one.extend(WORDS.continued("((("))
    first = samplers.grammars.compiled(grammar).automaton
    with monkeypatch.context() as patched:
        patched.setattr("twd.grammar.automaton._STATES_CROWD", 4)
        other.extend(WORDS.continued("[" * 8))
    assert samplers.grammars.compiled(grammar).automaton is not first
    one.extend(WORDS.continued("(a"))
    assert WORDS.text(one.propose(99)[0]) == "))))"


def test_a_text_that_became_too_ambiguous_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ahead(gbnf('root ::= ("a" | "aa" | x)* "b" "c"\nx ::= "aa" | "a" x'))
    with monkeypatch.context() as patched:
        patched.setattr("twd.grammar.automaton._EFFORT_MAX", 0)
        made.extend(WORDS.continued("aaaa"))
    made.extend(WORDS.continued("b"))
    assert made.propose(9) == ([], [])


CALL = Grammar(kind=GrammarKind.JSON_SCHEMA, text=PERSON.text, begins="<call>", ends="</call>")
WHOLE = '{"name": "x", "age": 3, "kind": "beta"}'


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("", ""),
        ("I call", ""),
        ("I <cal", ""),
        ("I <call>", '{"name": "'),
        ('a "quote <call>\n', '{"name": "'),
        ("<call> {", '"name": "'),
        ('<call>\n{"name": "x", "age": 3, "kind": "b', 'eta"}</call>'),
        (f"<call>\n{WHOLE}", "</call>"),
        (f"<call>\n{WHOLE}\n", "</call>"),
        (f"<call>\n{WHOLE}\n</call>", ""),
        (f"<call>\n{WHOLE}\n</call> and <call>", '\n{"name": "'),
        (f'<call>\n{WHOLE}\n</call> and <call>\n{{"name": "y", "age": 4, "kind": "a', 'lpha"}\n</call>'),
    ],
)
@pytest.mark.parametrize("binding", [True, False])
def test_between_marks(text: str, following: str, binding: bool) -> None:
    made = SamplerFactory(WORDS).ahead(CALL, binding=binding)
    made.extend(WORDS.continued(text))
    assert WORDS.text(made.propose(99)[0]) == following


def test_behind_a_guessed_mark() -> None:
    made = SamplerFactory(WORDS).ahead(CALL)
    made.extend(WORDS.continued("so <ca"))
    assert WORDS.text(made.propose(99, WORDS.continued("ll>"))[0]) == '{"name": "'
    assert made.propose(99) == ([], [])


def test_who_leaves_a_grammar_that_does_not_bind_may_come_back_to_it() -> None:
    made, bound = (SamplerFactory(WORDS).ahead(CALL, binding=binding) for binding in (False, True))
    for one in (made, bound):
        one.extend(WORDS.continued("<call>nonsense <call>\n"))
    assert WORDS.text(made.propose(99)[0]) == '{"name": "'
    assert bound.propose(99) == ([], [])


def test_what_does_not_bind_and_has_no_marks_says_nothing_before_the_text_follows_it() -> None:
    made = SamplerFactory(WORDS).ahead(PERSON, binding=False)
    assert made.propose(99) == ([], [])
    made.extend(WORDS.continued("{"))
    assert WORDS.text(made.propose(99)[0]) == '"name": "'
    made.extend(WORDS.continued("so"))
    assert made.propose(99) == ([], [])
    made.extend(WORDS.continued("{"))
    assert made.propose(99) == ([], []), "it is no such text"


@pytest.mark.parametrize("binding", [True, False])
def test_a_replaced_automaton_is_followed_between_marks_too(binding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    samplers = SamplerFactory(WORDS)
    made = samplers.ahead(CALL, binding=binding)
    made.extend(WORDS.continued(f"so <call>{WHOLE}</call> <call>" + '{"name": "'))
    monkeypatch.setattr("twd.grammar.automaton._STATES_CROWD", 1)
    before = samplers.grammars.compiled(CALL).automaton
    made.extend(WORDS.continued('x", "age": 5, "ki'))
    monkeypatch.undo()
    assert samplers.grammars.compiled(CALL).automaton is not before
    assert WORDS.text(made.propose(99)[0]) == 'nd": "'
