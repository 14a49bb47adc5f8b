"""Prompts from a file: one a line, as plain text or as JSON with `kind` and `prompt` or `messages`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from twd.bench.product.http_client import Question

OWN = Path(__file__).with_name("prompts.jsonl")


def read_prompts(file: Path) -> list[Question]:
    """All of a file; empty lines are nothing."""
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    return [question_of(number, line) for number, line in enumerate((line for line in lines if line), 1)]


def question_of(number: int, line: str) -> Question:
    """One line."""
    told: dict[str, Any] = json.loads(line) if line.startswith("{") else {"prompt": line}
    messages = told.get("messages") or [{"role": "user", "content": told["prompt"]}]
    return Question(f"{number} {told.get('kind', 'text')}", messages)


def some(questions: Sequence[Question], count: int) -> list[Question]:
    """So many of them, taken evenly, so that kinds stay mixed; 0: all."""
    if not 0 < count < len(questions):
        return list(questions)
    return [questions[index * len(questions) // count] for index in range(count)]


def lengthened(questions: Sequence[Question], letters: int) -> list[Question]:
    """The same with so much text of the others before each; every one begins otherwise."""
    return [_longer(questions, index, letters) for index in range(len(questions))] if letters else list(questions)


def _longer(questions: Sequence[Question], index: int, letters: int) -> Question:
    question, text, at = questions[index], "", index
    while len(text) < letters:
        at += 1
        text += f"Note {at}. {questions[at % len(questions)].messages[-1]['content']}\n\n"
    last = question.messages[-1]
    asked = {**last, "content": f"{text[:letters]}\n\nLeave the notes aside. {last['content']}"}
    return msgspec.structs.replace(question, messages=[*question.messages[:-1], asked])
