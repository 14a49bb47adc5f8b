"""600 checkable prompts of the bench's eight kinds, as JSON lines: for `twd gate calibrate`, and for the scripts here.

python contrib/benchmarks/judges/prompts.py > prompts.jsonl
"""

import json
import random
from collections.abc import Callable
from typing import Any, Final

EACH: Final = 75
CAPITALS: Final = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Poland": "Warsaw",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Hungary": "Budapest",
    "Canada": "Ottawa",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Turkey": "Ankara",
    "Iraq": "Baghdad",
    "Iran": "Tehran",
}
THINGS: Final = ("the sea", "a fox", "an old clock", "the rain", "a bridge", "bread", "a train", "the moon", "a garden")
WORDS: Final = ("silver", "quiet", "winter", "river", "golden", "letter", "morning", "stone")
NAMES: Final = ("Anna", "Ben", "Clara", "David", "Eva", "Frank", "Greta", "Hugo", "Ida", "Jonas")
JOBS: Final = ("baker", "nurse", "pilot", "teacher", "farmer", "painter")
FUNCTIONS: Final = ("add", "double", "is_even", "largest", "reverse", "average", "square", "count_words", "greet")
ASKED: Final = ("What is the capital of {}?", "Name the capital of {}.", "Which city is the capital of {}?")
PERSON: Final = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}
Line = dict[str, Any]


def said(text: str) -> list[Line]:
    """A conversation of one turn."""
    return [{"role": "user", "content": text}]


def reasoning(dice: random.Random) -> tuple[list[Line], Line]:
    """A sum."""
    one, other = dice.randint(1, 30), dice.randint(1, 30)
    return said(f"What is {one} + {other}? End with the number."), {"number": one + other}


def code(dice: random.Random) -> tuple[list[Line], Line]:
    """A function with a given name."""
    name = f"{dice.choice(FUNCTIONS)}_{dice.randint(1, 9)}"
    return said(f"Write a short Python function named {name}."), {"regex": f"def {name}\\("}


def factual(dice: random.Random) -> tuple[list[Line], Line]:
    """A capital."""
    country = dice.choice(sorted(CAPITALS))
    return said(dice.choice(ASKED).format(country)), {"contains": CAPITALS[country]}


def counting(dice: random.Random) -> tuple[list[Line], Line]:
    """Numbers in order."""
    first = dice.randint(1, 40)
    last = first + dice.randint(3, 8)
    wanted = ", ".join(map(str, range(first, last + 1)))
    return said(f"Count from {first} to {last}, separated by commas."), {"contains": wanted}


def creative(dice: random.Random) -> tuple[list[Line], Line]:
    """A sentence that must use a word."""
    word = dice.choice(WORDS)
    return said(f"Write one sentence about {dice.choice(THINGS)} with the word {word}."), {"contains": word}


def edit(dice: random.Random) -> tuple[list[Line], Line]:
    """A text to repeat."""
    text = f"{dice.choice(NAMES)} gave {dice.choice(NAMES)} {dice.randint(2, 99)} {dice.choice(WORDS)} cards."
    return said(f"Repeat this sentence word for word: {text}"), {"contains": text}


def talk(dice: random.Random) -> tuple[list[Line], Line]:
    """Something told earlier."""
    name, job = dice.choice(NAMES), dice.choice(JOBS)
    told = said(f"My name is {name} and I am a {job}.")
    told += [{"role": "assistant", "content": f"Nice to meet you, {name}!"}]
    return [*told, *said("What is my job? Answer in one sentence.")], {"contains": job}


def as_json(dice: random.Random) -> tuple[list[Line], Line]:
    """An object of a given shape."""
    name, age = dice.choice(NAMES), dice.randint(18, 80)
    return said(f'{name} is {age} years old. Write this as JSON with "name" and "age", nothing else.'), {
        "schema": PERSON
    }


KINDS: Final[dict[str, Callable[[random.Random], tuple[list[Line], Line]]]] = {
    "reasoning": reasoning,
    "code": code,
    "factual": factual,
    "list": counting,
    "creative": creative,
    "edit": edit,
    "multi-turn": talk,
    "json": as_json,
}


def prompts(each: int = EACH, seed: int = 1) -> list[Line]:
    """So many different ones of each kind, mixed; fewer where a kind has no more."""
    dice = random.Random(seed)
    found: dict[str, Line] = {}
    for kind, make in KINDS.items():
        mine: dict[str, Line] = {}
        for _ in range(40 * each):
            messages, check = make(dice)
            if len(mine) < each:
                mine[json.dumps(messages)] = {"messages": messages, "check": check, "kind": kind}
        found |= mine
    lines = list(found.values())
    dice.shuffle(lines)
    return lines


if __name__ == "__main__":
    for line in prompts():
        print(json.dumps(line))
