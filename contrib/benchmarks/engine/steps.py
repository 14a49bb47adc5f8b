"""What a step of native code costs beside llama.cpp's own: milliseconds a token, the medians of some rounds.

.venv/bin/python contrib/benchmarks/engine/steps.py FILE… [--steps 16] [--threads 2] [--gpu-layers 99]

`bare` is a loop in C++ with nothing but llama_decode and the largest logit (bare_loop.cpp, compiled with g++ at the
start). The others are calls of the target for windows: several steps in one call, and one step in each. `drafting`
picks with noise and judges each pick.
"""

import argparse
import ctypes
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from twd.decoding.sampler import SamplerFactory
from twd.decoding.window import Window
from twd.drafter.native import judge
from twd.drafter.runner import GuessReport
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.library import LIBRARIES
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.target import LocalTarget
from twd.wire.job import Sampling

PROMPT = [7 * number % 60 + 1 for number in range(32)]
DRAFTING = Sampling(temperature=0.8, top_k=40, top_p=0.95, repeat_penalty=1.1)


def compile_bare(folder: str) -> Any:
    """The bare loop."""
    headers, made = Path(sysconfig.get_paths()["purelib"]) / "include", Path(folder) / "bare.so"
    told = ["g++", "-O3", "-march=native", "-shared", "-fPIC", "-Wl,--no-as-needed", f"-I{headers}", "-o", str(made)]
    library = next(LIBRARIES.glob("libllama.so*"))
    subprocess.run([*told, str(Path(__file__).with_name("bare_loop.cpp")), str(library)], check=True)
    loop = ctypes.CDLL(str(made)).bare_loop
    loop.restype, loop.argtypes = ctypes.c_double, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int, ctypes.c_int]
    return loop


def windows_of(
    model: LoadedGguf, settings: ContextSettings, steps: int, each: int, sampling: Sampling
) -> Callable[[], float]:
    """A round of so many steps, `each` in one call; returns ms a step."""
    target = LocalTarget(Context(model, settings))
    sampler = SamplerFactory(model.vocab).sampler(sampling, 3, prompt_len=len(PROMPT), ignore_eos=True)
    report = GuessReport(judge, lambda logits: logits, with_other=False) if sampling.temperature else None
    slot, _ = target.open(PROMPT, sampler, report)

    def compute(at: int, tokens: tuple[int, ...], count: int) -> list[int]:
        target.submit([Window(slot, 0, at, tokens, committed=len(tokens), steps=count)])
        return target.collect()[0].tokens

    text = [*PROMPT, *compute(0, tuple(PROMPT), 1)]

    def one_round() -> float:
        began, end = time.perf_counter(), len(text) + steps
        while len(text) < end:
            text.extend(compute(len(text) - 1, (text[-1],), min(each, end - len(text))))
        return (time.perf_counter() - began) * 1000 / steps

    return one_round


def bare_of(model: LoadedGguf, settings: ContextSettings, steps: int, loop: Any) -> Callable[[], float]:
    """A round of the bare loop."""
    context, at = Context(model, settings), [len(PROMPT)]
    rows = BatchTokens()
    rows.add(0, 0, PROMPT)
    context.decode(rows)

    def one_round() -> float:
        at[0] += steps
        return float(loop(context.handle, 5, at[0] - steps, steps))

    return one_round


def measure(options: ModelLoadOptions, steps: int, threads: int, rounds: int, loop: Any) -> str:
    """One line of the table."""
    settings = ContextSettings(ctx_size=len(PROMPT) + 1 + (rounds + 1) * steps, threads=threads)
    if options.gpu_layers:
        settings = replace(settings, type_k="f16")
    with LoadedGguf.load(options) as model:
        ways = [
            bare_of(model, settings, steps, loop),
            windows_of(model, settings, steps, steps, Sampling()),
            windows_of(model, settings, steps, 1, Sampling()),
            windows_of(model, settings, steps, steps, DRAFTING),
            windows_of(model, settings, steps, 1, DRAFTING),
        ]
        taken = [[way() for way in ways] for _ in range(rounds)]  # in turn, so that all meet the same load
    bare, *others = (median(times) for times in zip(*taken, strict=True))
    return f"| {options.path.name} | {bare:.3f} | " + " | ".join(f"{ms:.3f} ({ms / bare:.2f}x)" for ms in others) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gpu-layers", type=int, default=0)
    given = parser.parse_args()
    print("| model | bare | steps in one call | one in each | drafting, in one call | drafting, one in each |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bare_loop = compile_bare(folder)
        for file in given.files:
            options = ModelLoadOptions(file, given.gpu_layers)
            print(measure(options, given.steps, given.threads, given.rounds, bare_loop))
