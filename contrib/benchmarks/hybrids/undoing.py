"""What it costs to take tokens back, and what a second turn of a chat costs, in models with a recurrent state.

.venv/bin/python -m contrib.benchmarks.hybrids.undoing windows        # a rejected window beside an accepted one
.venv/bin/python -m contrib.benchmarks.hybrids.undoing turns          # the first token of a second turn
.venv/bin/python -m contrib.benchmarks.hybrids.undoing turns --tiny   # the same with tiny models of any recipe
.venv/bin/python -m contrib.benchmarks.hybrids.undoing beside         # both turns beside llama-server
"""

import argparse
import json
import statistics
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contrib.benchmarks.engine.random_hybrid import KINDS, random_hybrid
from contrib.benchmarks.engine.random_model import random_model
from contrib.benchmarks.product.llama_server import Launch, llama_server, programs_folder
from tests.engine.slices.recipes import recipe
from twd.bench.product.http_client import Server
from twd.decoding.sampler import SamplerFactory
from twd.decoding.window import Window
from twd.engine.demo_model import demo_model
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.wire.base import ModelId
from twd.wire.job import Sampling

DRAFTS = 4
WINDOWS = 40
PROMPT = 200
CHAT = 4000
ANSWER = 40
QUESTION = 40
VOCABULARY = 49152
CACHE = Path.home() / ".cache" / "twd-bench"


class Text:
    """One session that a script drives."""

    def __init__(self, model: NativeModel, prompt: list[int]) -> None:
        sampler = SamplerFactory(model.model.vocab).sampler(Sampling(), 0, prompt_len=len(prompt))
        self._target = model.target
        self.slot, self.cached = self._target.open(prompt, sampler)
        self.tokens = list(prompt)
        self._at = self.cached

    def step(self, drafts: list[int]) -> tuple[float, int]:
        """Verify some drafts; the milliseconds, and how many tokens came."""
        feed = self.tokens[self._at :]
        began = time.perf_counter()
        self._target.submit([Window(self.slot, 0, self._at, (*feed, *drafts), committed=len(feed))])
        (verdict,) = self._target.collect()
        taken = (time.perf_counter() - began) * 1000
        assert verdict.failure is None, verdict.failure
        self.tokens += verdict.tokens
        self._at = len(self.tokens) - 1
        return taken, len(verdict.tokens)

    def close(self) -> None:
        """End the session; its cells stay."""
        self._target.close(self.slot)


def numbers(model: NativeModel, count: int, seed: int = 1) -> list[int]:
    """A prompt that makes no sense."""
    return numbers_up_to(model.model.vocab.size, count, seed)


def numbers_up_to(size: int, count: int, seed: int = 1) -> list[int]:
    """The same for a vocabulary of this size."""
    return [int(token) for token in np.random.default_rng(seed).integers(1, size - 1, count)]


def windows(model: NativeModel) -> tuple[float, float]:
    """The median milliseconds of an accepted and of a rejected window, in turn in one text."""
    known = Text(model, numbers(model, PROMPT))
    while len(known.tokens) < PROMPT + WINDOWS * (DRAFTS + 2) + DRAFTS + 2:
        known.step([])
    known.close()
    text = Text(model, known.tokens[:PROMPT])
    accepted, rejected = list[float](), list[float]()
    for _ in range(WINDOWS):
        right = known.tokens[len(text.tokens) + (text.cached == len(text.tokens)) :][:DRAFTS]
        ms, count = text.step(right)
        if count == DRAFTS + 1:
            accepted.append(ms)
        wrong = [(token + 1) % model.model.vocab.size for token in known.tokens[len(text.tokens) :][:DRAFTS]]
        ms, count = text.step(wrong)
        if count == 1:
            rejected.append(ms)
    text.close()
    assert len(accepted) > WINDOWS / 2, f"of {WINDOWS} windows {len(accepted)} were accepted"
    return statistics.median(accepted), statistics.median(rejected)


def turns(model: NativeModel) -> tuple[float, float, int]:
    """The milliseconds to the first token of a first and a second turn, and how much of the second was there."""
    first = Text(model, numbers(model, CHAT))
    first_ms, _ = first.step([])
    for _ in range(ANSWER):
        first.step([])
    first.close()
    second = Text(model, [*first.tokens, *numbers(model, QUESTION, 2)])
    second_ms, _ = second.step([])
    second.close()
    return first_ms, second_ms, second.cached


def turns_there(path: Path) -> tuple[float, float]:
    """The milliseconds that llama-server takes to read the prompts of such turns."""
    programs = programs_folder(None)
    if programs is None:
        raise SystemExit("no llama-server is here: run contrib/benchmarks/build_peers.sh")
    prompt = numbers_up_to(VOCABULARY, CHAT)
    with llama_server(Launch(programs, path, (), 1, CHAT + 512, 2)) as server:
        first = _completion(server, prompt)
        second = _completion(server, [*prompt, *first["tokens"], *numbers_up_to(VOCABULARY, QUESTION, 2)])
    return first["timings"]["prompt_ms"], second["timings"]["prompt_ms"]


def _completion(server: Server, prompt: list[int]) -> dict[str, Any]:
    fields = {"temperature": 0, "ignore_eos": True, "return_tokens": True}
    body = json.dumps({"prompt": prompt, "n_predict": ANSWER, **fields}).encode()
    request = urllib.request.Request(f"{server.url}/completion", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def path_of(name: str, *, tiny: bool) -> Path:
    """The file of a model, written once."""
    if tiny:
        one = recipe(name)
        longer = replace(one, fields=one.fields | {"context_length": ("UINT32", 8192)})
        return longer.write(CACHE / f"tiny-{name}.gguf")
    return random_model(CACHE, "q8_0", 12) if name == "llama" else random_hybrid(CACHE, name)


def load(path: Path) -> NativeModel:
    """One session, exact settings, two threads."""
    plan = LoadPlan(ModelId("m"), path, ctx_size=CHAT + 512, parallel=1, threads=2, test=False)
    return load_native(plan, lambda share, stage: None)


def beside(names: list[str]) -> None:
    """The turns of models with a vocabulary, here and there."""
    print("| model | first turn ms | llama-server | second turn ms | llama-server |\n|---|---|---|---|---|")
    for name in names:
        path = random_hybrid(CACHE, name, words=demo_model(CACHE, "q8_0"))
        model = load(path)
        first, second, _ = turns(model)
        model.close()
        there = turns_there(path)
        print(f"| {name} | {first:.0f} | {there[0]:.0f} | {second:.0f} | {there[1]:.0f} |", flush=True)


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("windows", "turns", "beside"))
    parser.add_argument("--models", nargs="+", default=["llama", *KINDS])
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    heads = {
        "windows": "| model | goes back by | accepted ms | rejected ms | ratio |\n|---|---|---|---|---|",
        "turns": "| model | first turn ms | second turn ms | of it cached | ratio |\n|---|---|---|---|---|",
    }
    if given.what == "beside":
        beside([name for name in given.models if name in KINDS])
        return
    print(heads[given.what])
    for name in given.models:
        model = load(path_of(name, tiny=given.tiny))
        if given.what == "windows":
            good, bad = windows(model)
            print(
                f"| {name} | {model.undo.describe() or 'cells'} | {good:.1f} | {bad:.1f} | {bad / good:.2f} |",
                flush=True,
            )
        else:
            one, two, cached = turns(model)
            print(
                f"| {name} | {one:.0f} | {two:.0f} | {cached} of {CHAT + ANSWER + QUESTION + 1} | {one / two:.0f}x |",
                flush=True,
            )
        model.close()


if __name__ == "__main__":
    main()
