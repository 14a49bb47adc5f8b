#!/usr/bin/env python3
"""Tokens a second of a mixture as the plan predicts them, beside those measured: predicted.py MODEL.gguf

Memory for three parts of the file; one, two and four stages; with and without distance. Each stage is a process of its
own with its own slice, and memory for so much of it. They share the cores and the disk of this machine, but only one
works at a time. The plan knows the speed of the disk, measured before and after each ring, the profile, and what each
stage measured when it loaded. With distances the cores of a virtual machine fall asleep between passes, which costs
milliseconds at each wake-up; `--awake` keeps them busy with two loops of idle priority, as if the cores were real.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ring import RARE

from twd.bench.prompts import PROMPTS
from twd.bench.ring.lab import RingLab, RingPlan
from twd.coordinator.core.measured import DevicePace, reads_of, with_paces
from twd.coordinator.core.pass_time import CPU_TOKEN_S
from twd.coordinator.core.placement.filling import placed
from twd.coordinator.core.placement.values import MachineLink, ModelShape, PlacementDemand, PlacementDevice, pair
from twd.coordinator.model_shape import read_shape
from twd.engine.experts.disk import disk_speed
from twd.engine.experts.layout import expert_layout
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.settings.model import ModelConfig
from twd.wire.job import Sampling
from twd.wire.node import CPU
from twd.wire.ring import StageReady

ROOM = 1 << 50
PROMPT_MAX = 64
WARM = 4
IDLE = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"


@dataclass(frozen=True)
class Case:
    """So much memory for each stage, of the part of the file that it has."""

    share: float
    stages: int
    rtt_ms: float


def expert_memory(model: Path, case: Case) -> int:
    """Bytes for the experts of one stage."""
    layout = expert_layout(model)
    if layout is None:
        raise SystemExit(f"{model} has no fused experts")
    return (int(case.share * model.stat().st_size) - layout.dense_bytes) // case.stages


def predict(shape: ModelShape, case: Case, memory: int, disk: float, stages: Sequence[StageReady]) -> float:
    """Tokens a second by the plan, with the paces that the stages measured."""
    nodes = [f"s{number}" for number in range(case.stages)]
    sizes = [sum(shape.layer_bytes[stage.first : stage.end]) for stage in stages]
    times = [stage.layer_ms * (stage.end - stage.first) / 1000 for stage in stages]
    paces = [DevicePace(size / time, model="mixture") for size, time in zip(sizes, times, strict=True)]
    known = {(node, CPU): pace for node, pace in zip(nodes, paces, strict=True)}
    home = PlacementDevice("home", CPU, ROOM, 1.0, token_s=CPU_TOKEN_S, disk=disk)  # stages told their own speeds
    devices = with_paces([replace(home, node=node) for node in nodes], known, reads_of([("mixture", shape)]))
    link = MachineLink(case.rtt_ms / 1000, 1e9, measured=True)
    links = dict.fromkeys([*nodes, *(pair(a, b) for a in nodes for b in nodes)], link)
    demand = PlacementDemand(1024, 1, home, split=(1.0,) * case.stages)
    limited = replace(shape, mixture=replace(shape.mixture, limit=memory))
    return placed(limited, devices, links, demand, demand.split).plain_tok_s


class Measuring:
    """Rings of one model, and texts on them."""

    def __init__(self, args: argparse.Namespace, layers: int) -> None:
        self.args, self.layers = args, layers
        self.stages: list[StageReady] = []
        with LoadedGguf.load(ModelLoadOptions(args.model, vocab_only=True)) as model:
            self.vocabulary = model.vocab.size
            real = [str(prompt.messages[-1].content) for prompt in PROMPTS]
            self.prompts = [model.vocab.tokenize(text, parse_special=False, add_bos=True) for text in real]
        if args.random:
            self.prompts = [[1 + number, 1000 + 7 * number, 2000 + 11 * number] for number in range(args.texts + WARM)]

    def rates(self, share: float, stages: int) -> Iterator[tuple[Case, float]]:
        """Tokens a second at each distance."""
        args, memory = self.args, expert_memory(self.args.model, Case(share, stages, 0.0))
        cuts = tuple(self.layers * number // stages for number in range(stages + 1))
        with tempfile.TemporaryDirectory() as folder:
            plan = RingPlan(
                args.model, Path(folder), cuts, parallel=1, threads=args.threads, plain=True, moe_memory=memory
            )
            with RingLab(plan) as lab:
                self.stages = list(lab.stages)
                os.sync()  # the slices were just written
                for rtt_ms in args.rtt if stages > 1 else [0.0]:
                    yield Case(share, stages, rtt_ms), self._rate(lab, rtt_ms)

    def _rate(self, lab: RingLab, rtt_ms: float) -> float:
        with lab.ring(rtt_ms, 1, self.vocabulary) as desk:
            desk.sampling = RARE if self.args.random else Sampling()
            said = [desk.speak([prompt[:PROMPT_MAX]], self.args.tokens, [None])[0] for prompt in self._texts()]
            counted = said[WARM:]  # the first ones fill the memory
            return sum(len(one.tokens) - 1 for one in counted) * 1000 / sum(one.decode_ms for one in counted)

    def _texts(self) -> Sequence[list[int]]:
        return self.prompts[: self.args.texts + WARM]


def main() -> None:
    """One line for each case, and at last how many were within a fifth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--profile", default="", help="of the experts, as `twd moe profile -o FILE` writes it")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.6, 0.45], help="of the file, in memory")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rtt", type=float, nargs="+", default=[0.0, 20.0], help="milliseconds between stages")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--texts", type=int, default=5)
    parser.add_argument("--awake", action="store_true", help="keep the cores from falling asleep")
    parser.add_argument("--random", action="store_true", help="random text, for a model of random weights")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shape = read_shape("mixture", ModelConfig(path=str(args.model), moe_hot_profile=args.profile), "ring", home=Path())
    measuring = Measuring(args, len(shape.layer_bytes))
    idle = [subprocess.Popen([sys.executable, "-c", IDLE]) for _ in range(args.threads)] if args.awake else []
    try:
        _all_cases(args, shape, measuring)
    finally:
        for process in idle:
            process.kill()
            process.wait()


def _all_cases(args: argparse.Namespace, shape: ModelShape, measuring: Measuring) -> None:
    near, cases, before = 0, 0, disk_speed(args.model)
    for stages in args.stages:
        for share in args.shares:
            found = list(measuring.rates(share, stages))
            after = disk_speed(args.model)
            before, disk = after, (before + after) / 2
            for case, measured in found:
                foretold = predict(shape, case, expert_memory(args.model, case), disk, measuring.stages)
                near, cases = near + (1 / 1.2 <= measured / foretold <= 1.2), cases + 1
                told = {"predicted": foretold, "measured": measured, "ratio": measured / foretold}
                told |= {"disk_MB_s": disk / 1e6}
                print(json.dumps(asdict(case) | {name: round(value, 2) for name, value in told.items()}), flush=True)
    print(f"{near} of {cases} within a fifth")


if __name__ == "__main__":
    main()
