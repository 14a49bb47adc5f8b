"""Small helpers that drive a target as a speculator would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from twd.decoding.window import Logits, Target, VerifyResult, Window
from twd.engine.model import LoadedGguf

Drafter = Callable[[list[int]], list[int]]
PROMPTS = (
    "List ten tips for writing clean Python code.",
    "Write a short story about a robot who learns to paint.",
    "What are the main differences between TCP and UDP?",
    "Count from one to fifty in words.",
)


@dataclass
class Greedy:
    """Argmax, and a record of the logits it saw for each position."""

    record: bool = False
    seen: dict[int, Logits] = field(default_factory=dict)

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        if self.record:
            self.seen[len(history)] = logits.copy()
        return int(logits.argmax())


def prompt_tokens(model: LoadedGguf, text: str) -> list[int]:
    whole = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return model.vocab.tokenize(whole, parse_special=True, add_bos=True)


def one(target: Target, window: Window) -> VerifyResult:
    target.submit([window])
    (verdict,) = target.collect()
    return verdict


def start(target: Target, prompt: Sequence[int], sampler: Greedy) -> tuple[int, list[int]]:
    """Open a session and feed its prompt: the slot, and the first picked token."""
    slot, cached = target.open(prompt, sampler)
    rest = tuple(prompt[cached:])
    verdict = one(target, Window(slot, 0, cached, rest, committed=len(rest)))
    assert verdict.failure is None, verdict.failure
    return slot, verdict.tokens


def no_drafts(_: list[int]) -> list[int]:
    return []


def generate(
    target: Target, prompt: Sequence[int], count: int, draft: Drafter = no_drafts, sampler: Greedy | None = None
) -> list[int]:
    """`count` tokens after a prompt, with whatever `draft` guesses after the tokens so far."""
    slot, out = start(target, prompt, sampler or Greedy())
    while len(out) < count:
        verdict = one(target, Window(slot, 0, len(prompt) + len(out) - 1, (out[-1], *draft(out))))
        assert verdict.failure is None, verdict.failure
        out += verdict.tokens
    target.close(slot)
    return out[:count]


def same_logits(one: dict[int, Logits], other: dict[int, Logits]) -> bool:
    """Whether two records agree bit for bit wherever both have logits."""
    shared = one.keys() & other.keys()
    return bool(shared) and all(np.array_equal(one[at], other[at]) for at in shared)
