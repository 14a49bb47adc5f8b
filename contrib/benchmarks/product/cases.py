"""What is measured: models, machines, links and clients, as users have them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from typing import Final

DISTANCES: Final = (0, 5, 20, 50)
LONG_TOKENS: Final = 1300
LETTERS_A_TOKEN: Final = 4.3


class Engine(StrEnum):
    """How a model lies on machines."""

    ALONE = "one machine"
    RING = "ring"
    RPC = "rpc"


@dataclass(frozen=True, slots=True)
class Case:
    """One situation; `target` and `draft` are kinds of weights of the demo model, or files."""

    name: str
    engine: Engine
    target: str
    draft: str
    machines: int = 1
    rtt_ms: int = 0
    clients: int = 1
    prompt_tokens: int = 0
    """Prompts are made so long; 0: as they are."""


def all_cases(target: str = "", draft: str = "") -> list[Case]:
    """Everything that is claimed anywhere; with a target of one's own, the same with that."""
    found = [*_alone(target, draft), *_spread(target or "f16", draft or "q8_0"), *_others(target, draft)]
    return list(dict.fromkeys(found))


def _alone(target: str, draft: str) -> Iterator[Case]:
    if target:
        yield Case("one machine", Engine.ALONE, target, draft)
        return
    for weights, quicker in (("f32", "q8_0"), ("f16", "q8_0"), ("q8_0", "q4_0"), ("q4_k_m", "q4_0")):
        yield Case(f"one machine, {weights}", Engine.ALONE, weights, quicker)


def _spread(target: str, draft: str) -> Iterator[Case]:
    for engine, machines in ((Engine.RING, 2), (Engine.RING, 4), (Engine.RPC, 2)):
        for rtt_ms in DISTANCES:
            yield Case(f"{engine} of {machines}, {rtt_ms} ms", engine, target, draft, machines, rtt_ms)


def _others(target: str, draft: str) -> Iterator[Case]:
    for clients in (4, 16):
        yield Case(f"{clients} clients", Engine.ALONE, target or "f16", draft or "q8_0", clients=clients)
    name = f"prompts of {LONG_TOKENS} tokens"
    yield Case(name, Engine.ALONE, target or "f32", draft or "q8_0", prompt_tokens=LONG_TOKENS)
    ring = (Engine.RING, target or "f16", draft or "q8_0", 2, 20)
    yield Case(f"{name}, ring of 2, 20 ms", *ring, prompt_tokens=LONG_TOKENS)


def named(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Those whose names match one of the patterns, as a shell matches files."""
    return [case for case in cases if any(fnmatch(case.name, pattern) for pattern in patterns)]
