"""The engine's step against llama.cpp's own programs: one session, and sixteen in a batch.

Ours goes through `LocalTarget` with a greedy pick per token, as a speculator without drafts would; theirs are
llama-bench and llama-batched-bench from the same source (build_peers.sh). Rounds alternate, the best of each counts.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twd.engine.context import Context, ContextSettings, usable_cores
from twd.engine.demo_model import demo_model
from twd.engine.exactness import exact_plan
from twd.engine.model import Model, ModelSettings
from twd.engine.target import LocalTarget
from twd.engine.window import Logits, Window

PROMPT = 16
SESSIONS = 16


class Greedy:
    """Argmax."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        return int(logits.argmax())


@dataclass(frozen=True)
class Setup:
    """What both sides are told."""

    path: Path
    programs: Path
    tokens: int
    threads: int
    type_k: str
    type_v: str


def ours(target: LocalTarget, sessions: int, tokens: int) -> float:
    """Tokens per second over all sessions."""
    opened = {}
    for number in range(sessions):
        prompt = tuple((number * 131 + index * 17) % 1000 + 100 for index in range(PROMPT))
        slot, cached = target.open(prompt, Greedy())
        target.submit([Window(slot, 0, cached, prompt[cached:], committed=PROMPT - cached)])
        opened[slot] = target.collect()[0].tokens
    began = time.perf_counter()
    for step in range(tokens):
        target.submit([Window(slot, 0, PROMPT + step, (out[-1],)) for slot, out in opened.items()])
        for verdict in target.collect():
            opened[verdict.slot] += verdict.tokens
    spent = time.perf_counter() - began
    for slot in opened:
        target.close(slot)
    return sessions * tokens / spent


def their_single(setup: Setup) -> float:
    """llama-bench, generation only."""
    out = _run(
        setup, "llama-bench", "-p", "0", "-n", str(setup.tokens), "-r", "1", "-o", "json", "-fa", "1", "-ngl", "0"
    )
    return float(json.loads(out)[0]["avg_ts"])


def their_batch(setup: Setup) -> float:
    """llama-batched-bench with one stream a sequence."""
    context = str(SESSIONS * (PROMPT + setup.tokens + 64))
    fixed = ("-npp", str(PROMPT), "-ntg", str(setup.tokens), "-npl", str(SESSIONS), "-c", context)
    out = _run(setup, "llama-batched-bench", *fixed, "-fa", "on", "--output-format", "jsonl", "-ngl", "0")
    line = next(line for line in out.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed_tg"])


def _run(setup: Setup, program: str, *arguments: str) -> str:
    argv = [str(setup.programs / program), "-m", str(setup.path), "-t", str(setup.threads)]
    argv += ["-ctk", setup.type_k, "-ctv", setup.type_v, *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=600).stdout


def compare(setup: Setup, rounds: int) -> None:
    wanted = ContextSettings(ctx_size=PROMPT + setup.tokens + 8, parallel=SESSIONS, threads=setup.threads)
    with Model.load(ModelSettings(setup.path)) as model:
        plan = exact_plan(model, wanted, exact=True)
        with Context(model, plan.settings) as context:
            target = LocalTarget(context, rows_min=plan.rows_min)
            loose = LocalTarget(context, rows_min=1)
            ours(target, 1, 8)
            sides: dict[str, Callable[[], float]] = {
                "single, llama-bench": partial(their_single, setup),
                "single, twd": partial(ours, loose, 1, setup.tokens),
                "single, twd exact": partial(ours, target, 1, setup.tokens),
                f"batch {SESSIONS}, llama-batched-bench": partial(their_batch, setup),
                f"batch {SESSIONS}, twd": partial(ours, target, SESSIONS, setup.tokens),
            }
            best = dict.fromkeys(sides, 0.0)
            for _ in range(rounds):
                for name, measure in sides.items():
                    best[name] = max(best[name], measure())
    report(model.info.quantization, best)


def report(weights: str, best: dict[str, float]) -> None:
    theirs = 0.0
    for name, rate in best.items():
        theirs = rate if "bench" in name else theirs
        print(f"{weights:>5}  {name:<32} {rate:8.1f} tok/s  {rate / theirs:6.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="the folder that build_peers.sh printed")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "twd")
    parser.add_argument("--kinds", default="q4_0,q8_0,f16", help="weights of the demo model to measure")
    parser.add_argument("--model", type=Path, help="a GGUF of your own instead")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    paths = [options.model] if options.model else [demo_model(options.cache, kind) for kind in options.kinds.split(",")]
    for path in paths:
        setup = Setup(path, options.programs, options.tokens, options.threads, "f16", "q8_0")
        compare(setup, options.rounds)


if __name__ == "__main__":
    main()
