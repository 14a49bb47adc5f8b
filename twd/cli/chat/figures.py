"""What speculation did for an answer, in one line; and two answers to one question, compared."""

from typing import Any

from twd.cli.chat.stream import AnswerFacts, StreamedAnswer
from twd.kit.wording import count

SHOWN = 24
"""Characters around the place where two texts part."""


def figures(answer: StreamedAnswer) -> str:
    """One line under an answer."""
    parts = [count(answer.tokens, "token")]
    if answer.rate:
        parts.append(f"{answer.rate:.1f} tok/s")
    if answer.first_s:
        parts.append(f"first after {answer.first_s:.2f} s")
    if answer.facts is not None:
        parts += _facts(answer.facts)
    if answer.finish_reason == "length":
        parts.append("cut at the token limit")
    return ", ".join(parts)


def _facts(facts: AnswerFacts) -> list[str]:
    parts = [_drafts(facts)]
    if facts.tokens_per_pass:
        parts.append(f"{facts.tokens_per_pass:.2f} tokens a pass")
    if facts.workers_replaced:
        parts.append(f"{count(facts.workers_replaced, 'worker')} replaced on the way")
    if facts.seed is not None:
        parts.append(f"seed {facts.seed}")
    return parts


def _drafts(facts: AnswerFacts) -> str:
    if facts.mode == "direct":
        return "no drafts"
    if not facts.checked:
        return "no guesses checked"
    return f"{facts.taken} of {facts.checked} guesses held ({facts.taken / facts.checked:.0%})"


def compared(drafted: StreamedAnswer, plain: StreamedAnswer) -> list[str]:
    """Lines that say what drafts changed: speed, and never text."""
    lines = [f"with drafts:    {figures(drafted)}", f"without drafts: {figures(plain)}"]
    verdict = "same text" if drafted.text == plain.text else parting(drafted.text, plain.text)
    faster = f"{ratio(drafted, plain):.2f} times as fast, " if ratio(drafted, plain) else ""
    return [*lines, faster + verdict]


def ratio(drafted: StreamedAnswer, plain: StreamedAnswer) -> float:
    """How much faster drafts made it; 0 where a speed is unknown."""
    return drafted.rate / plain.rate if plain.rate else 0.0


def parting(one: str, other: str) -> str:
    """Where two texts part, in words."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin = max(0, at - SHOWN)
    return f"TEXT DIFFERS from character {at} on: {one[begin : at + SHOWN]!r} against {other[begin : at + SHOWN]!r}"


def comparison_document(drafted: StreamedAnswer, plain: StreamedAnswer) -> dict[str, Any]:
    """For JSON."""
    return {
        "equal": drafted.text == plain.text,
        "ratio": round(ratio(drafted, plain), 3),
        "with_drafts": drafted.document(),
        "without_drafts": plain.document(),
    }
