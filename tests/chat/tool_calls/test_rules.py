"""Calls that begin with a name are held to the schemas of strict tools, and are read back as they are forced."""

import json
import random

import msgspec
import pytest

from tests.chat.tool_calls.test_formats import CITY, LINKED, strict
from tests.engine.words import Words
from twd.chat.tool_calls.deltas import ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.formats import ToolFormat, function_schemas, showing_markers, strict_calls, usual_calls
from twd.chat.tool_calls.stream import ToolCallStream
from twd.structured_output.compiled import CompiledGrammar
from twd.structured_output.state import GrammarCache, GrammarState
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

TOOLS = [strict("weather", CITY), strict("list", LINKED), strict("clock", {"type": "object"}, strict=False)]
HEADED = [ToolFormat.NAMED, ToolFormat.KIMI, ToolFormat.DEEPSEEK, ToolFormat.SOLAR]
OSLO = '{"city": "Oslo"}'


class Marked(Words):
    """The made-up vocabulary with marks of calls as control tokens, which have no bytes."""

    def __init__(self, found: ToolFormat) -> None:
        super().__init__()
        self._pieces += [b""] * len(found.markers)
        self.special_tokens |= {name: self.size + index for index, name in enumerate(found.markers)}
        self.size = len(self._pieces)


def made(found: ToolFormat, words: Words) -> CompiledGrammar:
    grammar = strict_calls(TOOLS, found)
    assert grammar is not None
    return GrammarCache(words).compiled(grammar)


def tokens_of(text: str, words: Words) -> list[int]:
    """A text byte by byte, but its marks as control tokens, where there are such."""
    tokens: list[int] = []
    while text:
        mark = next((name for name in words.special_tokens if text.startswith(name)), None)
        tokens += [words.special_tokens[mark]] if mark else list(text[0].encode())
        text = text[len(mark or " ") :]
    return tokens


def breaks(grammar: CompiledGrammar, words: Words, text: str) -> bool:
    tokens, walk = tokens_of(text, words), GrammarState(grammar)
    return not all(walk.allows(tokens[:place], token) for place, token in enumerate(tokens))


KEPT = {
    ToolFormat.NAMED: [
        f"So [TOOL_CALLS]weather[ARGS]{OSLO}[TOOL_CALLS]clock[ARGS]{{}}",
        f"[TOOL_CALLS]weather[CALL_ID]abcDEF123[ARGS]{OSLO}</s>",
        '[TOOL_CALLS]list[ARGS]{"root":{"next":{}}} and so on',
    ],
    ToolFormat.KIMI: [
        "So <|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        f"{OSLO}<|tool_call_end|><|tool_call_begin|>functions.clock:12<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
        "<|tool_calls_section_end|>Done",
    ],
    ToolFormat.DEEPSEEK: [
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{OSLO}<｜tool▁call▁end｜>",
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{OSLO}\n```<｜tool▁call▁end｜> and",
    ],
    ToolFormat.SOLAR: [
        f"<|tool_calls|><|tool_call:begin|>a1b2<|tool_call:name|>weather<|tool_call:args|>{OSLO}<|tool_call:end|>"
        "<|tool_call:begin|>0<|tool_call:name|>clock<|tool_call:args|>{}<|tool_call:end|><|calls|>",
    ],
}
BROKEN = {
    ToolFormat.NAMED: [
        '[TOOL_CALLS]weather[ARGS]{"town"',
        "[TOOL_CALLS]nobody",
        "[TOOL_CALLS]weather{",
        '[TOOL_CALLS][{"name"',
        '[TOOL_CALLS]list[ARGS]{"root":{"other"',
        "[TOOL_CALLS]weather[CALL_ID][ARGS]",
    ],
    ToolFormat.KIMI: [
        "<|tool_call_begin|>weather",
        "<|tool_call_begin|>functions.nobody",
        '<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city":1',
        f"<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{OSLO}x",
    ],
    ToolFormat.DEEPSEEK: [
        "<｜tool▁call▁begin｜>nobody",
        "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{}",
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{OSLO}<",
    ],
    ToolFormat.SOLAR: [
        "<|tool_call:begin|>weather<|tool_call:args|>",
        "<|tool_call:begin|>a1<|tool_call:name|>nobody",
        "<|tool_call:begin|>a1<|tool_call:name|>weather<|tool_call:args|>{}",
    ],
}


@pytest.mark.parametrize("as_tokens", [True, False])
@pytest.mark.parametrize("found", HEADED)
def test_a_strict_tool_is_held_to_its_schema(found: ToolFormat, as_tokens: bool) -> None:
    words = Marked(found) if as_tokens else Words()
    grammar = made(found, words)
    assert [text for text in KEPT[found] if breaks(grammar, words, text)] == []
    assert [text for text in BROKEN[found] if not breaks(grammar, words, text)] == []


@pytest.mark.parametrize("found", HEADED)
def test_what_is_forced_is_read_back(found: ToolFormat) -> None:
    words, rng = Marked(found), random.Random(1)
    grammar = made(found, words)
    (begin,) = tokens_of(grammar_of(found).begins, words)
    piece = showing_markers(words.piece, words.special_tokens, found.markers)
    for _ in range(20):
        walk, tokens = GrammarState(grammar), [begin]
        while len(tokens) < 200 and not (able := walk.allowed(tokens)).tolist().count(words.end):
            closing = [token for token in able.tolist() if words.piece(token)[:1] in (b'"', b"}")]
            tokens.append(rng.choice(closing if closing and rng.random() < 0.4 else able.tolist()))
        if len(tokens) == 200:
            continue
        stream = ToolCallStream(function_schemas(TOOLS))
        deltas = stream.feed(b"".join(map(piece, tokens)).decode()) + stream.finish()
        first, *rest = deltas
        assert isinstance(first, ToolCallStart)
        assert first.name in ("weather", "list", "clock")
        json.loads("".join(delta.text for delta in rest if isinstance(delta, ToolCallArguments)))
        assert all(isinstance(delta, ToolCallArguments) for delta in rest)


def grammar_of(found: ToolFormat) -> Grammar:
    grammar = usual_calls(TOOLS, found)
    assert grammar is not None
    assert grammar.kind is GrammarKind.CALLS
    return grammar


def test_a_name_that_could_not_be_found_again_is_not_forced() -> None:
    assert strict_calls([strict("two words", CITY)], ToolFormat.NAMED) is None
    assert strict_calls([strict("two words", CITY)], ToolFormat.HERMES) is not None


def test_a_mistake_in_a_schema_is_told_with_its_place() -> None:
    grammar = strict_calls([TOOLS[0], strict("odd", {"properties": {"a": {"not": {}}}})], ToolFormat.KIMI)
    assert grammar is not None
    with pytest.raises(TwdError, match="#/1/properties/a: 'not' is not supported") as caught:
        GrammarCache(Words()).compiled(grammar)
    assert (caught.value.code, caught.value.failure.field) == (FailureCode.BAD_GRAMMAR, "tools")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "hermes", "names": ["a"], "schemas": [{}]}',
        '{"format": "kimi", "names": ["a"], "schemas": []}',
        '{"format": "kimi", "names": ["a"], "schemas": [{}, {}]}',
        '{"format": "kimi", "names": ["a"], "schemas": {"a": {}}}',
        '{"format": "kimi", "names": ["\\ud800"], "schemas": [{}]}',
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(TwdError) as caught:
        GrammarCache(Words()).compiled(Grammar(kind=GrammarKind.CALLS, text=text, begins="<a>"))
    assert caught.value.code is FailureCode.BAD_GRAMMAR


def test_lists_of_calls_are_held_to_their_schemas_too() -> None:
    for found, begins in ((ToolFormat.MISTRAL, "[TOOL_CALLS]"), (ToolFormat.TOGETHER, "<tool_calls>")):
        words = Words()
        grammar = made(found, words)
        ends = "</tool_calls>" if found is ToolFormat.TOGETHER else ""
        calls = msgspec.json.encode([{"name": "weather", "arguments": {"city": "x"}}]).decode()
        assert not breaks(grammar, words, f"I see. {begins}{calls}{ends} So.")
        assert breaks(grammar, words, begins + '[{"name":"weather","arguments":{}')


def test_one_call_may_stand_without_a_list_where_models_write_so() -> None:
    words = Words()
    grammar = made(ToolFormat.TOGETHER, words)
    assert not breaks(grammar, words, '<tool_calls>\n{"name": "weather", "arguments": {"city": "x"}}\n</tool_calls>')
    assert breaks(grammar, words, '<tool_calls>\n{"name": "weather", "arguments": {}}')


def test_calls_of_mistral_may_have_ids() -> None:
    words = Words()
    grammar = made(ToolFormat.MISTRAL, words)
    call = '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "x"}, "id": "a1B2c3D4e"}]'
    assert not breaks(grammar, words, call)
    assert breaks(grammar, words, call.replace("D4e", "D4-"))
