"""What it costs a target to score 200 tokens, beside writing them one by one, and beside what its passes allow.

python contrib/benchmarks/judges/scoring.py F32.gguf [F16.gguf ...]
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from twd.decoding.sampler import SamplerFactory
from twd.decoding.window import Window
from twd.engine.context import Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.target import LocalTarget
from twd.wire.job import Sampling

TOKENS, ROUNDS = 200, 3
PROMPT = "Explain in detail how rain forms, how clouds move, and why the sea is salty."


def write(target: LocalTarget, samplers: SamplerFactory, prompt: list[int]) -> tuple[list[int], float]:
    """Greedy tokens one by one, and the time."""
    slot, cached = target.open(prompt, samplers.sampler(Sampling(), 1, prompt_len=len(prompt)))
    target.submit([Window(slot, 64, cached, tuple(prompt[cached:]), committed=len(prompt) - cached)])
    tokens = [target.collect()[0].tokens[0]]
    began = time.perf_counter()
    while len(tokens) < TOKENS:
        target.submit([Window(slot, 64, len(prompt) + len(tokens) - 1, (tokens[-1],))])
        tokens += target.collect()[0].tokens
    took = time.perf_counter() - began
    target.close(slot)
    return tokens, took


KINDS: dict[str, dict[str, Any]] = {"read": {"picks": False}, "verify": {}, "score": {"scores": True}}
"""Passes over the same tokens: without logits, as drafts that are all right, and scored."""


def score(
    target: LocalTarget, samplers: SamplerFactory, prompt: list[int], given: list[int]
) -> tuple[dict[str, float], int]:
    """The time of each kind of passes, and how many tokens were not the target's."""
    times = {}
    unlike = 0
    for kind, options in KINDS.items():
        slot, cached = target.open(prompt, samplers.sampler(Sampling(), 1, prompt_len=len(prompt)))
        if len(prompt) - cached > 1:
            target.submit([Window(slot, 64, cached, tuple(prompt[cached:-1]), picks=False, committed=1)])
            target.collect()
        began, at, last, place = time.perf_counter(), len(prompt) - 1, prompt[-1], 0
        while place < len(given):
            piece = given[place : place + target.window_max - 1]
            window = Window(slot, 64, at, (last, *piece), **options)
            target.submit([window])
            (verdict,) = target.collect()
            unlike += sum(one.gap > 0 for one in verdict.scores)
            place, at, last = place + len(piece), at + len(piece), piece[-1]
        times[kind] = time.perf_counter() - began
        target.close(slot)
    return times, unlike


def main() -> None:
    """Print one line a model."""
    for name in sys.argv[1:]:
        with LoadedGguf.load(ModelLoadOptions(Path(name))) as model:
            target = LocalTarget(Context(model, ContextSettings(ctx_size=1024, parallel=1)), rows_min=2)
            samplers = SamplerFactory(model.vocab)
            prompt = model.vocab.tokenize(PROMPT, parse_special=False, add_bos=True)
            rounds = []
            for _ in range(ROUNDS):
                tokens, plain = write(target, samplers, prompt)
                times, unlike = score(target, samplers, prompt, tokens)
                scored = times["score"]
                rounds.append((plain / scored, times["verify"] / scored, times["read"] / scored, plain, scored))
            ratio, verify, read, plain, scored = (statistics.median(one) for one in zip(*rounds, strict=True))
            print(
                f"{Path(name).name}: writing {plain:.2f} s, scoring {scored:.2f} s: {ratio:.1f}x cheaper, "
                f"{verify:.2f} of passes that verify, {read:.2f} of passes without logits; {unlike} unlike its own"
            )
            target.shutdown()


if __name__ == "__main__":
    main()
