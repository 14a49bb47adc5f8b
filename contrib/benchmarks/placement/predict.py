"""How near `twd plan` comes to what is measured: the plain speed of about ten cases, foretold and then taken.

    .venv/bin/python contrib/benchmarks/placement/predict.py --cases 10

Each case is a system of its own, started as a user would. It is planned before it starts, its state folder still
empty, asked plain over HTTP, and planned again while it runs: then it has learned from its own passes.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from twd.bench.product.http_client import Question, Reply, Server, ask_all
from twd.bench.product.statistics import rate_of
from twd.bench.product.whole_system import TWD, WholeSystem
from twd.bench.prompts import PROMPTS
from twd.engine.demo_model import demo_model

CACHE: Final = Path.home() / ".cache" / "twd-bench"
MODEL: Final = "target"
OFF: Final = {"x-twd-speculation": "off"}
NEAR: Final = 0.25


@dataclass(frozen=True, slots=True)
class Case:
    """One model on machines that are so far away."""

    weights: str
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For the table."""
        return " ".join([Path(self.weights).stem, *self.words]).replace("--", "")


def cases(files: list[Path]) -> list[Case]:
    """All kinds of weights on one machine, then rings and workers near and far."""
    alone = [Case(kind) for kind in ("f32", "f16", "q8_0", "q4_0", "q4_k_m")]
    spread = [
        Case(kind, (f"--{engine}={machines}", f"--link-rtt={rtt}"))
        for kind, engine, machines, rtt in (
            ("f16", "ring", 2, 0), ("f16", "ring", 2, 20), ("q8_0", "ring", 2, 5), ("f16", "ring", 4, 20),
            ("f16", "rpc", 2, 20),
        )
    ]  # fmt: skip
    return [*alone, *(Case(str(file)) for file in files), *spread]


@dataclass(frozen=True, slots=True)
class Found:
    """Tokens per second: foretold before, measured by the client, foretold while it ran."""

    name: str
    before: float
    measured: float
    after: float

    @property
    def row(self) -> str:
        """One line of the table."""
        cells = [self.name, *(f"{value:.1f}" for value in (self.before, self.measured, self.after))]
        shares = (f"{value / self.measured:.2f}" if self.measured else "-" for value in (self.before, self.after))
        return f"| {' | '.join([*cells, *shares])} |"


def planned(system: WholeSystem) -> float:
    """What `twd plan` foretells."""
    command = [*TWD, "-c", str(system.file), "plan", MODEL, "--json"]
    done = subprocess.run(command, env=system.environment, capture_output=True, text=True, check=False, timeout=60)
    told: dict[str, Any] = json.loads(done.stdout) if done.returncode in (0, 3) else {}
    if not told:
        raise SystemExit(f"no plan: {done.stdout}{done.stderr}")
    return float(told["plain_tok_s"])


def measured(url: str, count: int, max_tokens: int) -> float:
    """The middle of some answers, without drafts; the first one warms caches."""
    questions = [
        Question(str(number), [{"role": turn.role, "content": turn.content} for turn in prompt.messages])
        for number, prompt in enumerate([one for one in PROMPTS if one.kind != "json"][: count + 1])
    ]
    replies: list[Reply] = asyncio.run(ask_all(Server(url, MODEL, OFF), questions, max_tokens))[0]
    return median(rate_of([reply]) for reply in replies[1:] if reply.tokens > 1)


def run(case: Case, args: argparse.Namespace) -> Found:
    """One case in a state folder of its own."""
    path = Path(case.weights) if case.weights.endswith(".gguf") else demo_model(CACHE, case.weights)
    home = Path(tempfile.mkdtemp(prefix="twd-predict-"))
    settings = {"models": {MODEL: {"path": str(path), "ctx_size": 2048}}}
    system = WholeSystem(home, settings, case.words)
    try:
        before = 0.0 if case.words else planned(system)
        system.start()
        first = before or planned(system)
        taken = measured(system.url, args.texts, args.max_tokens)
        return Found(case.name, first, taken, planned(system))
    finally:
        system.stop()
        shutil.rmtree(home, ignore_errors=True)


def main(args: argparse.Namespace) -> None:
    """One table."""
    found = []
    print("| case | foretold | measured | foretold while it runs | foretold to measured | the same while it runs |")
    print("|---|---|---|---|---|---|")
    for case in cases(args.file)[args.skip :][: args.cases]:
        found.append(run(case, args))
        print(found[-1].row, flush=True)
    for words, values in (("before", [one.before for one in found]), ("while it runs", [one.after for one in found])):
        near = sum(abs(value / one.measured - 1) <= NEAR for value, one in zip(values, found, strict=True))
        print(f"\n{words}: {near} of {len(found)} within {NEAR:.0%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20, help="at most so many")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first ones")
    parser.add_argument("--file", type=Path, nargs="*", default=[], help="models besides the demo's")
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    main(parser.parse_args())
