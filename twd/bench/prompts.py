"""The prompts of the benchmark: a few conversations of each kind, since acceptance differs between kinds."""

from collections.abc import Sequence
from dataclasses import dataclass

from twd.wire.job import ChatMessage, Grammar, GrammarKind


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """One conversation of the benchmark."""

    kind: str
    messages: tuple[ChatMessage, ...]
    grammar: Grammar | None = None


def _ask(kind: str, *turns: str, grammar: Grammar | None = None) -> BenchPrompt:
    roles = ("user", "assistant")
    messages = [ChatMessage(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]  # type: ignore[arg-type]
    return BenchPrompt(kind, tuple(messages), grammar)


_BUGGY = """\
def add(a, b):
    retrun a + b

def subtract(a, b):
    retrun a - b

def multiply(a, b):
    retrun a * b

def divide(a, b):
    if b == 0:
        raise ValueError("division by zero")
    retrun a / b

print(add(1, 2), subtract(3, 4), multiply(5, 6), divide(8, 2))"""

_LETTER = (
    "Dear Ms Alder, thank you for your letter of 3 May. We have looked at the pump that you sent us and found that "
    "the seal was worn. We have put in a new seal and a new bearing, and tested the pump for two hours. It is on its "
    "way back to you and should arrive on Friday. The repair is covered by the warranty, so there is nothing to pay."
)

_PEOPLE = """{"type":"array","items":{"type":"object","properties":{"name":{"type":"string"},
"age":{"type":"integer"},"city":{"type":"string"}},"required":["name","age","city"],"additionalProperties":false},
"minItems":4,"maxItems":4}"""

PROMPTS: Sequence[BenchPrompt] = (
    _ask("reasoning", "A train leaves at 9:40 and arrives at 13:05. How long is the journey? Explain step by step."),
    _ask("reasoning", "If all roses are flowers and some flowers fade quickly, do some roses fade quickly? Explain."),
    _ask("code", "Write a Python function that reverses a linked list, then explain it."),
    _ask("code", "Write a small HTTP server in Python that answers every request with the current time."),
    _ask("factual", "What are the main differences between TCP and UDP?"),
    _ask("factual", "Explain how photosynthesis works to a ten year old."),
    _ask("list", "List ten tips for writing clean Python code."),
    _ask("list", "Name twelve European capitals with their countries, one per line."),
    _ask("creative", "Write a short story about a robot who learns to paint."),
    _ask("creative", "Write a poem about an old lighthouse in winter."),
    _ask("edit", f"Fix the bugs in this code and print the whole corrected code:\n\n{_BUGGY}"),
    _ask("edit", f"Repeat the following letter word for word:\n\n{_LETTER}"),
    _ask("edit", "Repeat the following list three times: apple, banana, cherry, date, elderberry, fig, grape."),
    _ask(
        "multi-turn",
        "I want to grow tomatoes on my balcony. What do I need?",
        "You need a large pot, good soil, a sunny place, a tomato plant and something that it can climb on.",
        "How often should I water them, and how do I notice that it is too much?",
    ),
    _ask(
        "multi-turn",
        "Translate to French: The weather is nice today.",
        "Il fait beau aujourd'hui.",
        "And now: I am going to the market to buy bread, cheese and apples.",
    ),
    _ask(
        "json",
        "Give me four invented people with name, age and city as a JSON array.",
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=_PEOPLE),
    ),
)

KINDS = tuple(dict.fromkeys(prompt.kind for prompt in PROMPTS))
