"""How models mark their thoughts before the answer; found in their chat templates."""

import re
from typing import Final

from msgspec.structs import replace

from twd.wire.job import Grammar, GrammarKind, Prompt, Thoughts

_MARKS: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<thought>", "</thought>"),
    ("<|channel>thought", "<channel|>"),
)
USUAL: Final = Thoughts(*_MARKS[0])
CHANNELS: Final = Thoughts("<|channel|>", "<|end|>")
"""Of models that write thoughts, calls and answers as messages of one turn, such as gpt-oss."""
ANSWER_CHANNEL: Final = "<|channel|>final<|message|>"
_TAG: Final = re.compile(r"<[^<>]+>")
_CHANNEL_MARKERS: Final = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>")


def detect_thoughts(template: str) -> Thoughts | None:
    """Return how models with this chat template mark their thoughts; None if unknown."""
    if CHANNELS.begins in template and "<|message|>" in template:
        return CHANNELS
    return next((Thoughts(begins, ends) for begins, ends in _MARKS if ends in template or begins in template), None)


def usual_thoughts(prompt: Prompt) -> Thoughts | None:
    """How an answer of another server's model may begin to think, whose template nobody here knows."""
    return None if prompt.messages is None else USUAL


def markers_of(thoughts: Thoughts) -> tuple[str, ...]:
    """Strings around thoughts that may be control tokens, so that they must be made visible to be found."""
    if thoughts == CHANNELS:
        return _CHANNEL_MARKERS
    return (thoughts.begins, thoughts.ends, *_TAG.findall(thoughts.begins))


def thoughts_after(prompt: str, prefill: str, marks: Thoughts) -> Thoughts | None:
    """How an answer behind a prompt may begin to think, where the template's own text ends with `prompt`.

    None where it may not: the template has closed the thought, or the client has begun the answer itself and left no
    thought open.
    """
    begun, ended = prefill.rfind(marks.begins), prefill.rfind(marks.ends)
    opened = begun > ended or (ended < 0 and prompt.rstrip().endswith(marks.begins))
    closed = bool(prefill) or prompt.rstrip().endswith(marks.ends)
    return Thoughts(marks.begins, marks.ends, opened) if opened or not closed else None


def behind_thought(grammar: Grammar, thoughts: Thoughts) -> Grammar:
    """The same grammar for what follows a thought: it says nothing of that, and must be kept before the text ends.

    Where no thought is open, the model decides whether it has one; a GBNF, though, describes the answer from its first
    letter on.
    """
    if thoughts.open:
        return replace(grammar, begins=thoughts.ends, rest=True)
    if grammar.kind is GrammarKind.GBNF:
        return grammar
    return replace(grammar, begins=thoughts.ends, rest=True, opens=thoughts.begins)
