"""Between its marks a grammar holds, as often as they come; all other text is free."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.engine.words import Words
from twd.decoding.sampler import SamplerFactory
from twd.grammar.automaton import DEAD, Automaton
from twd.structured_output.state import GrammarState
from twd.wire.failures import TwdError
from twd.wire.job import Grammar, GrammarKind

WORDS = Words()
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(CITY), begins="<call>", ends="</call>")
THOUGHT = Grammar(kind=GrammarKind.GBNF, text='root ::= "so" [0-9] "."', begins="<|think|>")
GOOD = '<call>\n{"city": "Oslo"}\n</call>'


def walk(grammar: Grammar = CALL) -> GrammarState:
    return GrammarState(SamplerFactory(WORDS).grammars.compiled(grammar))


def breaks_at(text: str, grammar: Grammar = CALL, tokens: list[int] | None = None) -> str | None:
    """The text before the first token that is refused; None when all are allowed."""
    followed, said = walk(grammar), list[int]()
    for token in WORDS.continued(text) if tokens is None else tokens:
        if not followed.allows(said, token):
            return WORDS.text(said)
        said.append(token)
    return None


@pytest.mark.parametrize(
    "text",
    [
        "no call at all, {but} brackets",
        "<call",
        "<call<call",
        GOOD,
        f"I look it up. {GOOD} And again: {GOOD}{GOOD}\n",
        '<call>{"city":""}</call><callers>',
    ],
)
def test_what_is_free_and_what_fits(text: str) -> None:
    assert breaks_at(text) is None
    assert breaks_at(text, tokens=list(text.encode())) is None


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("<call>Oslo", "<call>"),
        ("well <call<call> x", "well <call<call> "),
        ('<call>{"town', '<call>{"'),
        (f'{GOOD} then <call>{{"city": 3', f'{GOOD} then <call>{{"city": '),
        ('<call>{"city": "Oslo"}<', None),
        ('<call>{"city": "Oslo"}x', '<call>{"city": "Oslo"}'),
    ],
)
def test_what_breaks_a_call(text: str, before: str | None) -> None:
    assert breaks_at(text, tokens=list(text.encode())) == before


def test_a_text_may_end_anywhere_but_in_a_call() -> None:
    followed = walk()
    for text, may_end in (("", True), ("<cal", True), ("<call>", False), (GOOD[:-1], False), (GOOD, True)):
        assert followed.allows(WORDS.continued(text), WORDS.end) is may_end, text


def test_everything_is_allowed_in_free_text_and_little_in_a_call() -> None:
    followed = walk()
    assert list(followed.allowed([])) == list(range(WORDS.size))
    inside = [WORDS.piece(token) for token in followed.allowed(WORDS.continued("<call>"))]
    assert sorted(inside) == sorted([b"\n", b" ", b"{", b'{"'])


def test_a_token_may_pass_both_marks() -> None:
    words = Words(["hi <call>{", '"x": 1}</call> <call>{"x', "}</call>?"])
    grammar = Grammar(
        kind=GrammarKind.JSON_SCHEMA,
        text=json.dumps({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}),
        begins="<call>",
        ends="</call>",
    )
    compiled = SamplerFactory(words).grammars.compiled(grammar)
    state = compiled.start
    for token, expected in ((256, "inside"), (257, "inside"), (ord('"'), "inside"), (ord("7"), "dead")):
        state = compiled.after(state, token)
        assert state == DEAD if expected == "dead" else state > 0
    state = compiled.start
    for token in (256, 257, *b'": 7', 258):
        state = compiled.after(state, token)
    assert state == compiled.start


def test_a_mark_may_be_a_control_token_and_the_end_the_grammars_own() -> None:
    think = WORDS.special_tokens["<|think|>"]
    assert breaks_at("", THOUGHT, [ord("a"), think, *b"so7.", ord("b"), think, *b"so8."]) is None
    assert breaks_at("", THOUGHT, [think, ord("s"), think]) == "s"
    followed = walk(THOUGHT)
    assert not followed.allows([think], WORDS.end)
    assert followed.allows([think, *b"so7."], WORDS.end)
    assert breaks_at("", THOUGHT, list(b"<|think|>x")) == "<|think|>", "spelled out it is the mark, too"


def test_a_control_token_may_end_it() -> None:
    think = WORDS.special_tokens["<|think|>"]
    grammar = Grammar(kind=GrammarKind.GBNF, text='root ::= "ab"', begins="(", ends="<|think|>")
    assert breaks_at("", grammar, [*b"x(ab", think, *b"ab("]) is None
    assert breaks_at("", grammar, [*b"(ab", ord("c")]) == "(ab"
    assert list(walk(grammar).allowed([*b"(ab"])) == [think]


def test_a_mistake_in_it_is_told_like_any_other() -> None:
    with pytest.raises(TwdError, match="JSON schema is not JSON") as caught:
        walk(Grammar(kind=GrammarKind.JSON_SCHEMA, text="{", begins="<call>", field="tools"))
    assert caught.value.failure.field == "tools"


def test_the_same_grammar_without_marks_is_another() -> None:
    grammars = SamplerFactory(WORDS).grammars
    whole = Grammar(kind=CALL.kind, text=CALL.text)
    assert grammars.compiled(CALL) is grammars.compiled(CALL)
    assert not GrammarState(grammars.compiled(whole)).allows([], ord("x"))
    assert GrammarState(grammars.compiled(CALL)).allows([], ord("x"))


@given(st.lists(st.sampled_from([*WORDS.continued(GOOD), *b"<call>", 256, 257, 258]), max_size=60), st.data())
def test_where_it_stands_does_not_hang_on_how_it_came_there(tokens: list[int], data: st.DataObject) -> None:
    followed, said = walk(), list[int]()
    for token in tokens:
        if followed.allows(said, token):
            said.append(token)
    fresh, end = walk(), data.draw(st.integers(0, len(said)))
    assert list(fresh.allowed(said[:end])) == list(followed.allowed(said[:end]))


PASSING = Words(["t <call>", "<call>x", 'l>{"', 'l>{"x', "</call> <call>?", "}</call>!", "<call>"])


@given(st.lists(st.sampled_from(range(256, PASSING.size)) | st.sampled_from(list(b'<call>{"city": "}')), max_size=30))
def test_what_is_left_to_choose_from_may_be_chosen(tokens: list[int]) -> None:
    followed, said = GrammarState(SamplerFactory(PASSING).grammars.compiled(CALL)), list[int]()
    for token in tokens:
        if followed.allows(said, token):
            said.append(token)
    able, fitting = (
        set(followed.allowed(said).tolist()),
        {token for token in range(PASSING.size) if followed.allows(said, token)},
    )
    assert able <= fitting
    if followed.allows(said, PASSING.end):
        assert able == fitting, "in free text nothing else is missing"


def test_no_mark_is_no_token() -> None:
    words = Words()
    words.special_tokens[""] = words.special_tokens["<|think|>"]
    grammar = Grammar(kind=GrammarKind.GBNF, text='root ::= "ab"', begins="(")
    followed = GrammarState(SamplerFactory(words).grammars.compiled(grammar))
    assert followed.allows([*b"x(ab"], ord("c"))


BEHIND = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(CITY), begins="</call>", rest=True)


@pytest.mark.parametrize(
    "text", ['</call>{"city":""}', 'hm, {"city": 3}\n</call>\n\n{"city": "Oslo"}', '<call></call> {"city": "</call>"}']
)
def test_behind_a_thought_the_grammar_holds_to_the_end(text: str) -> None:
    for tokens in (WORDS.continued(text), list(text.encode())):
        assert breaks_at(text, BEHIND, tokens) is None
        followed = walk(BEHIND)
        ends = [end for end in range(len(tokens) + 1) if followed.allows(tokens[:end], WORDS.end)]
        assert ends == [len(tokens)], "neither in the thought nor in the midst of the answer"


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("hm</call>Oslo", "hm</call>"),
        ('hm</call>{"city": "Oslo"} and more', 'hm</call>{"city": "Oslo"}'),
        ('hm</call>{"city": "Oslo"}</call>{', 'hm</call>{"city": "Oslo"}'),
    ],
)
def test_what_breaks_the_rest(text: str, before: str) -> None:
    assert breaks_at(text, BEHIND, list(text.encode())) == before
    followed = walk(BEHIND)
    assert (WORDS.end in followed.allowed(list(before.encode()))) is before.endswith("}")
    assert WORDS.end not in followed.allowed(list(b"hm"))


EITHER = replace(BEHIND, opens="<call>")
AT_ONCE = '{"city": "Oslo"}'


@pytest.mark.parametrize(
    "text",
    [
        AT_ONCE,
        f"<call></call>{AT_ONCE}",
        f'<call>\nhm, {{"city": 3}} <call>\n</call>\n\n{AT_ONCE}',
        f"<call>é</cal</call>{AT_ONCE}",
    ],
)
@pytest.mark.parametrize("marks", ["text", "control tokens", "first a control token"])
def test_a_thought_may_come_first_or_not(text: str, marks: str) -> None:
    words = Words()
    grammar, tokens = EITHER, [*text.encode()]
    if marks == "control tokens":
        grammar = replace(BEHIND, opens="<|think|>")
        tokens = [words.special_tokens["<|think|>"], *text.removeprefix("<call>").encode()] if "<" in text else tokens
    elif marks == "first a control token":
        grammar = replace(BEHIND, opens="<|think|>hm")
        start = [words.special_tokens["<|think|>"], *b"hm"]
        tokens = [*start, *text.removeprefix("<call>").encode()] if "<" in text else tokens
    followed = GrammarState(SamplerFactory(words).grammars.compiled(grammar))
    for end, token in enumerate(tokens):
        assert followed.allows(tokens[:end], token), words.text(tokens[:end])
    ends = [end for end in range(len(tokens) + 1) if followed.allows(tokens[:end], words.end)]
    assert ends == [len(tokens)]


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("hm", ""),
        ("\n<call>", ""),
        ("</call>", "<"),
        ("<call>hm</call>Oslo", "<call>hm</call>"),
        (f"<call>hm</call>{AT_ONCE}<call>", f"<call>hm</call>{AT_ONCE}"),
        ("<call>hm</call><call>", "<call>hm</call>"),
        (f"{AT_ONCE}<call>", AT_ONCE),
    ],
)
def test_what_breaks_an_answer_that_may_think_first(text: str, before: str) -> None:
    assert breaks_at(text, EITHER, list(text.encode())) == before
    followed, refused = walk(EITHER), text.encode()[len(before)]
    assert refused not in followed.allowed(list(before.encode()))


def test_a_token_may_pass_the_mark_of_a_thought() -> None:
    words = Words(["ll>hm", "m</call>{"])
    followed = GrammarState(SamplerFactory(words).grammars.compiled(EITHER))
    said = [*b"<ca"]
    for token in (256, ord("h"), 257):
        assert followed.allows(said, token)
        said.append(token)
    assert not followed.allows(said, ord("x"))
    assert followed.allows(said, ord('"'))


def test_a_fresh_automaton_knows_its_marks() -> None:
    compiled = SamplerFactory(WORDS).grammars.compiled(EITHER)
    walked, said = GrammarState(compiled), list(f"<call>hm</call>{AT_ONCE}".encode())
    assert walked.allows(said, WORDS.end)
    old = compiled.automaton
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Automaton, "crowded", property(lambda automaton: automaton is old))
        assert walked.allows(said, WORDS.end)
        assert not walked.allows(said, ord("x"))
        assert compiled.automaton is not old


def test_an_end_token_with_a_text_of_its_own_ends_no_call() -> None:
    class Spelled(Words):
        def piece(self, token: int) -> bytes:
            return b"</s>" if token == self.end else super().piece(token)

    words = Spelled()
    followed = GrammarState(SamplerFactory(words).grammars.compiled(CALL))
    said = list(b'<call>{"city": "Os')
    assert not followed.allows(said, words.end)
    assert words.end not in followed.allowed(said)
    assert followed.allows(list(b"<cal"), words.end)
