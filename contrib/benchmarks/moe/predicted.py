#!/usr/bin/env python3
"""Tokens a second of a mixture as the plan predicts them, beside those measured: predicted.py MODEL.gguf

Memory for three parts of the file; one, two and four stages; with and without distance. Each stage is a process of its own
with its own slice, and memory for so much of it. They share the cores and the disk of this machine, but only one works at
a time. The plan knows the speed of the memory and of the disk, measured before, and takes the choices of experts for even.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from twd.bench.prompts import PROMPTS
from twd.bench.ring.lab import RingLab, RingPlan
from twd.coordinator.core.pass_time import CPU_KINDS, CPU_LAYER_S, CPU_TOKEN_S
from twd.coordinator.core.placement.filling import placed
from twd.coordinator.core.placement.values import MachineLink, ModelShape, PlacementDemand, PlacementDevice, pair
from twd.coordinator.model_shape import read_shape
from twd.engine.experts.disk import disk_speed
from twd.engine.experts.layout import expert_layout
from twd.engine.measuring.memory_speed import measure_bandwidth
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.settings.model import ModelConfig
from twd.wire.job import Sampling

RARE = Sampling(repeat_last_n=-1, repeat_penalty=10.0, presence_penalty=10.0)
"""Hardly a token stands there twice, so each chooses other experts."""
ROOM = 1 << 50


@dataclass(frozen=True)
class Case:
    """So much memory for each stage, of the part of the file that it has."""

    share: float
    stages: int
    rtt_ms: float


def cuts(layers: int, stages: int) -> tuple[int, ...]:
    """The first layer of each stage, and the number of layers."""
    return tuple(layers * number // stages for number in range(stages + 1))


def expert_memory(model: Path, case: Case) -> int:
    """Bytes for the experts of one stage."""
    layout = expert_layout(model)
    if layout is None:
        raise SystemExit(f"{model} has no fused experts")
    return (int(case.share * model.stat().st_size) - layout.dense_bytes) // case.stages


def predict(shape: ModelShape, case: Case, memory: int, cpu: PlacementDevice) -> float:
    """Tokens a second by the plan."""
    nodes = [f"s{number}" for number in range(case.stages)]
    devices = [replace(cpu, node=node) for node in nodes]
    link = MachineLink(case.rtt_ms / 1000, 1e9, measured=True)
    links = {node: link for node in nodes} | {pair(a, b): link for a in nodes for b in nodes}
    demand = PlacementDemand(1024, 1, replace(cpu, node="home"), split=(1.0,) * case.stages)
    limited = replace(shape, mixture=replace(shape.mixture, limit=memory))
    return placed(limited, devices, links, demand, demand.split).plain_tok_s


def measure(args: argparse.Namespace, shares: list[float], stages: int, layers: int) -> Iterator[tuple[Case, float, float]]:
    """Tokens a second of each case with so many stages."""
    with LoadedGguf.load(ModelLoadOptions(args.model, vocab_only=True)) as model:
        vocabulary = model.vocab.size
        real = [str(prompt.messages[-1].content) for prompt in PROMPTS]
        prompts = [model.vocab.tokenize(text, parse_special=False, add_bos=True)[:64] for text in real]
        if args.random:
            prompts = [[1 + number, 1000 + 7 * number, 2000 + 11 * number] for number in range(args.texts + 1)]
    for share in shares:
        memory = expert_memory(args.model, Case(share, stages, 0.0))
        with tempfile.TemporaryDirectory() as folder:
            plan = RingPlan(
                args.model, Path(folder), cuts(layers, stages), parallel=1, threads=args.threads, plain=True,
                moe_memory=memory,
            )  # fmt: skip
            with RingLab(plan) as lab:
                for rtt_ms in args.rtt if stages > 1 else [0.0]:
                    with lab.ring(rtt_ms, 1, vocabulary) as desk:
                        desk.sampling = RARE if args.random else Sampling()
                        before, rates = disk_speed(args.model), []
                        for number in range(args.texts + 1):
                            (said,) = desk.speak([prompts[number]], args.tokens, [None])
                            rates.append((len(said.tokens) - 1) * 1000 / said.decode_ms)
                    spent = sum(1 / rate for rate in rates[1:])
                    disk = (before + disk_speed(args.model)) / 2
                    yield Case(share, stages, rtt_ms), args.texts / spent, disk


def main() -> None:
    """One line for each case, and at last how many were within a fifth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.6, 0.45], help="of the file, in memory")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rtt", type=float, nargs="+", default=[0.0, 20.0], help="milliseconds between stages")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--random", action="store_true", help="random text, for a model of random weights")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shape = read_shape("mixture", ModelConfig(path=str(args.model)), "ring")
    near = cases = 0
    for stages in args.stages:
        for case, measured, disk in measure(args, args.shares, stages, len(shape.layer_bytes)):
            bandwidth = measure_bandwidth(args.threads)
            cpu = PlacementDevice(
                "", "cpu", ROOM, bandwidth, kinds=CPU_KINDS, layer_s=CPU_LAYER_S, token_s=CPU_TOKEN_S, disk=disk
            )
            foretold = predict(shape, case, expert_memory(args.model, case), cpu)
            ratio = measured / foretold
            near, cases = near + (1 / 1.2 <= ratio <= 1.2), cases + 1
            told = {"predicted": round(foretold, 2), "measured": round(measured, 2), "ratio": round(ratio, 2)}
            speeds = {"disk_MB_s": round(disk / 1e6), "memory_GB_s": round(bandwidth / 1e9, 1)}
            print(json.dumps(case.__dict__ | told | speeds), flush=True)
    print(f"{near} of {cases} within a fifth")


if __name__ == "__main__":
    main()
