"""The engine's step against llama.cpp's own programs: one session, and sixteen in a batch.

Ours goes through `LocalTarget` with a greedy pick per token, as a speculator without drafts would; theirs are
llama-bench and llama-batched-bench from the same source (build_peers.sh). Both make many short runs in turn, and the
best of each counts: whatever else the machine does can only make a run slower. `--cpu-time` compares CPU seconds on
one thread instead, for machines that are never quiet.
"""

import argparse
import json
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from twd.decoding.window import Logits, Window
from twd.engine.context import Context, ContextSettings
from twd.engine.demo_model import demo_model
from twd.engine.exactness import ExactPlan, exact_plan
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.target import LocalTarget
from twd.process.cores import usable_cores

PROMPT = 16
SESSIONS = 16
Measure = Callable[[], float]


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
    runs: int
    threads: int
    type_k: str
    type_v: str
    gpu_layers: int = 0


def ours(model: LoadedGguf, plan: ExactPlan, rows_min: int, sessions: int, setup: Setup) -> float:
    """Tokens per second over all sessions: the best run."""
    with Context(model, replace(plan.settings, parallel=sessions)) as context:
        target = LocalTarget(context, rows_min=rows_min)
        prompts = [[(number * 131 + index * 17) % 1000 + 100 for index in range(PROMPT)] for number in range(sessions)]
        slots = [target.open(prompt, Greedy())[0] for prompt in prompts]
        firsts = {}
        for slot, prompt in zip(slots, prompts, strict=True):
            target.submit([Window(slot, 0, 0, tuple(prompt), committed=PROMPT)])
            firsts[slot] = target.collect()[0].tokens[0]
        spent = min(_run(target, firsts, setup.tokens) for _ in range(setup.runs))
    return sessions * setup.tokens / spent


def _run(target: LocalTarget, firsts: dict[int, int], tokens: int) -> float:
    """Seconds for `tokens` steps after the prompt; what earlier runs wrote is taken back by the first window."""
    last = dict(firsts)
    began = time.perf_counter()
    for step in range(tokens):
        target.submit([Window(slot, 0, PROMPT + step, (token,)) for slot, token in last.items()])
        for verdict in target.collect():
            last[verdict.slot] = verdict.tokens[0]
    return time.perf_counter() - began


def their_single(setup: Setup) -> float:
    """llama-bench, generation only."""
    out = _output(setup, "llama-bench", "-p", "0", "-n", setup.tokens, "-r", setup.runs, "-o", "json", "-fa", "1")
    return setup.tokens * 1e9 / float(min(json.loads(out)[0]["samples_ns"]))


def their_batch(setup: Setup) -> float:
    """llama-batched-bench with one stream a sequence."""
    context = SESSIONS * (PROMPT + setup.tokens + 64)
    widths = ",".join([str(SESSIONS)] * setup.runs)
    fixed = ("-npp", PROMPT, "-ntg", setup.tokens, "-npl", widths, "-c", context)
    out = _output(setup, "llama-batched-bench", *fixed, "-fa", "on", "--output-format", "jsonl")
    return max(float(json.loads(line)["speed_tg"]) for line in out.splitlines() if line.startswith("{"))


def _output(setup: Setup, program: str, *arguments: str | int) -> str:
    argv = [
        str(setup.programs / program),
        "-m",
        str(setup.path),
        "-t",
        str(setup.threads),
        "-ngl",
        str(setup.gpu_layers),
    ]
    argv += ["-ctk", setup.type_k, "-ctv", setup.type_v, *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=600).stdout


def our_cpu_ms(model: LoadedGguf, plan: ExactPlan, sessions: int, setup: Setup) -> float:
    """CPU milliseconds of one step over all sessions."""

    def spent(tokens: int) -> float:
        began = time.process_time()
        ours(model, plan, 1, sessions, replace(setup, tokens=tokens, runs=1))
        return time.process_time() - began

    return (spent(2 * setup.tokens) - spent(setup.tokens)) / setup.tokens * 1000


def their_cpu_ms(program: Callable[[Setup], float], setup: Setup) -> float:
    """The same of another program: what a run twice as long takes more."""

    def spent(tokens: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        program(replace(setup, tokens=tokens, runs=1))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (spent(2 * setup.tokens) - spent(setup.tokens)) / setup.tokens * 1000


def wanted_settings(setup: Setup, tokens: int) -> ContextSettings:
    """A context that holds so many new tokens, with the same cache types as theirs."""
    ctx_size = PROMPT + tokens + 8
    return ContextSettings(ctx_size=ctx_size, threads=setup.threads, type_k=setup.type_k, type_v=setup.type_v)


def compare_cpu_time(setup: Setup, rounds: int) -> None:
    wanted = wanted_settings(setup, 2 * setup.tokens)
    with LoadedGguf.load(ModelLoadOptions(setup.path, gpu_layers=setup.gpu_layers)) as model:
        plan = exact_plan(model, wanted, exact=True)
        for sessions, program in ((1, their_single), (SESSIONS, their_batch)):
            turns = [(our_cpu_ms(model, plan, sessions, setup), their_cpu_ms(program, setup)) for _ in range(rounds)]
            mine, theirs = map(min, zip(*turns, strict=True))
            print(
                f"{model.info.quantization:>5}  {sessions:>2} sessions: CPU ms a step, twd {mine:7.2f}, "
                f"llama.cpp's own program {theirs:7.2f}, speed {theirs / mine:5.3f}",
                flush=True,
            )


def compare(setup: Setup, rounds: int) -> None:
    wanted = wanted_settings(setup, setup.tokens)
    with LoadedGguf.load(ModelLoadOptions(setup.path, gpu_layers=setup.gpu_layers)) as model:
        plan = exact_plan(model, wanted, exact=True)
        sides: dict[str, Measure] = {
            "single, llama-bench": partial(their_single, setup),
            "single, twd, not exact": partial(ours, model, plan, 1, 1, setup),
            "single, twd": partial(ours, model, plan, plan.rows_min, 1, setup),
            f"batch {SESSIONS}, llama-batched-bench": partial(their_batch, setup),
            f"batch {SESSIONS}, twd": partial(ours, model, plan, plan.rows_min, SESSIONS, setup),
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
    parser.add_argument("--tokens", type=int, default=16, help="tokens of one run")
    parser.add_argument("--runs", type=int, default=20, help="runs in a row")
    parser.add_argument("--rounds", type=int, default=3, help="how often both sides take turns")
    parser.add_argument("--cpu-time", action="store_true", help="compare CPU time on one thread")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--gpu-layers", type=int, default=0, help="for both; with f16 caches")
    options = parser.parse_args()
    paths = [options.model] if options.model else [demo_model(options.cache, kind) for kind in options.kinds.split(",")]
    for path in paths:
        type_k = "f16" if options.gpu_layers else "q8_0"
        setup = Setup(path, options.programs, options.tokens, options.runs, options.threads, type_k, "f16")
        setup = replace(setup, gpu_layers=options.gpu_layers)
        if options.cpu_time:
            compare_cpu_time(replace(setup, threads=1, tokens=3 * options.tokens), options.rounds)
        else:
            compare(setup, options.rounds)


if __name__ == "__main__":
    main()
