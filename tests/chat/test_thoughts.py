"""Which marks a template knows, and whether a prompt ends within a thought."""

import pytest

from twd.chat.thoughts import CHANNELS, behind_thought, detect_thoughts, markers_of, thoughts_after
from twd.wire.job import Grammar, GrammarKind, Thoughts

THINK = Thoughts("<think>", "</think>")
OPEN = Thoughts("<think>", "</think>", open=True)
QWEN = (
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (QWEN, THINK),
        ("<｜Assistant｜><think>\n", THINK),
        ("[THINK]...[/THINK]", Thoughts("[THINK]", "[/THINK]")),
        ("{{- '<|channel>thought\\n' -}}", Thoughts("<|channel>thought", "<channel|>")),
        ("{{ '<|channel|>analysis<|message|>' }}", CHANNELS),
        ("{{ '<seed:think>' }}", Thoughts("<seed:think>", "</seed:think>")),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", None),
        ("", None),
    ],
)
def test_marks_are_known_by_the_template(template: str, found: Thoughts | None) -> None:
    assert detect_thoughts(template) == found


@pytest.mark.parametrize(
    ("prompt", "prefill", "opened"),
    [
        ("<|im_start|>assistant\n", "", False),
        ("<｜Assistant｜><think>\n", "", True),
        ("<|im_start|>assistant\n<think>", "", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "", None),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>so", True),
        ("what is <think>?<|im_end|>\n<|im_start|>assistant\n", "", False),
        ("<|im_start|>assistant\n", "<think>\nLet me", True),
        ("<|im_start|>assistant\n<think>\n", "Let me", True),
        ("<|im_start|>assistant\n", "Sure", None),
        ("<|im_start|>assistant\n", "<think>\nhm</think>\nSure", None),
        ("<|im_start|>assistant\n<think>\n", "hm</think>", None),
    ],
)
def test_a_prompt_may_end_within_a_thought(prompt: str, prefill: str, opened: bool | None) -> None:
    expected = None if opened is None else Thoughts("<think>", "</think>", opened)
    assert thoughts_after(prompt, prefill, THINK) == expected


def test_a_grammar_holds_behind_an_open_thought() -> None:
    grammar = behind_thought(Grammar(kind=GrammarKind.JSON, field="response_format"), OPEN)
    assert (grammar.begins, grammar.ends, grammar.rest, grammar.opens) == ("</think>", "", True, "")
    assert grammar.field == "response_format"


def test_where_no_thought_is_open_json_may_follow_one() -> None:
    grammar = behind_thought(Grammar(kind=GrammarKind.JSON), THINK)
    assert (grammar.begins, grammar.rest, grammar.opens) == ("</think>", True, "<think>")
    described = Grammar(kind=GrammarKind.GBNF, text='root ::= "yes"')
    assert behind_thought(described, THINK) == described


def test_marks_may_be_control_tokens_or_begin_with_one() -> None:
    assert set(markers_of(Thoughts("<|channel>thought", "<channel|>"))) > {"<|channel>", "<channel|>"}
    assert {"[THINK]", "[/THINK]"} <= set(markers_of(Thoughts("[THINK]", "[/THINK]")))
    assert {"<|channel|>", "<|message|>", "<|end|>", "<|start|>"} <= set(markers_of(CHANNELS))
