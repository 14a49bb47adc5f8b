"""How long the coordinator thinks: plans for many machines that come, are filled, and leave.

    python contrib/benchmarks/placement/plan.py --nodes 100 1000

Two models lie over the pool, each plan is one question "what next?", and willing machines do at once what they are
asked. Times are of the processor, of this process alone.
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec

from twd.coordinator.core.placement.values import ModelShape
from twd.coordinator.core.plan import plan
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import DecidePlacement, ObservedState, StartProcess, StopProcess, WantedState
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import CpuFacts, GpuFacts, MemoryFacts, ModelFile, NodeFacts, ProcessFacts

GIB: Final = 1024**3
HOME: Final = NodeId("home")
FILE: Final = ModelFile(name="big", path="big.gguf", size_bytes=1, hash="b" * 32)
KINDS: Final = (("rpc", 0), ("ring", 0), ("ring", 1))


def machine(dice: random.Random, name: str, small: bool) -> NodeFacts:
    """Some machine, with or without a device of its own; a small one has room for a layer or two."""
    memory = int((dice.uniform(1.5, 3.5) if small else dice.uniform(2, 64)) * GIB)
    gpu = 0 if small else int(dice.choice((0, 0, 8, 24)) * GIB)
    return NodeFacts(
        node=NodeId(name),
        instance=InstanceId(f"agent.{name}.x"),
        machine=name,
        pid=1,
        lends=True,
        cpu=CpuFacts(bandwidth=int(dice.uniform(5e9, 30e9))),
        memory=MemoryFacts(total=memory, available=memory),
        gpus=[GpuFacts(name="g", backend="cuda", total=gpu, free=gpu)] if gpu else [],
        models=[FILE],
    )


def wanting(engine: str, spares: int) -> WantedState:
    """A big model and a small one."""
    shapes = (
        ModelShape("big", (GIB,) * 80, GIB, GIB, 8192, 128_000, 4096, 8192),
        ModelShape("small", (GIB // 8,) * 12, GIB // 16, GIB // 16, 1024, 32_000, 1024, 8192),
    )
    models = tuple(WantedModel(shape.name, 4096, 4, shape, file=FILE) for shape in shapes)
    pool = PoolConfig(engine=engine, trusted_lan=True, standby=spares)  # type: ignore[arg-type]
    return WantedState(HOME, InstanceId("coordinator.home.x"), pool, models)


def settle(wanted: WantedState, observed: ObservedState, now: float) -> Iterator[float]:
    """What each plan took, until there is nothing to do."""
    while True:
        began = time.process_time()
        action = plan(wanted, observed, now)
        yield time.process_time() - began
        match action:
            case None:
                return
            case DecidePlacement(decision, basis):
                observed.decided[decision.place], observed.basis[decision.place] = decision, basis
            case StartProcess(wish):
                new = ProcessFacts(process=wish.process, kind=wish.kind, state="ready")
                _set(observed, wish.node, [*observed.nodes[wish.node].processes, new])
            case StopProcess(wish):
                left = [known for known in observed.nodes[wish.node].processes if known.process != wish.process]
                _set(observed, wish.node, left)


def _set(observed: ObservedState, node: NodeId, processes: list[ProcessFacts]) -> None:
    observed.nodes = {**observed.nodes, node: msgspec.structs.replace(observed.nodes[node], processes=processes)}


def measure(engine: str, spares: int, count: int, options: argparse.Namespace) -> str:
    """One line of the table: machines all come at once, settle, and each in twenty leaves."""
    dice, wanted = random.Random(options.seed), wanting(engine, spares)
    names = ["home", *(f"n{number:04}" for number in range(count - 1))]
    observed = ObservedState(nodes={NodeId(name): machine(dice, name, options.small) for name in names})
    first = list(settle(wanted, observed, 0.0))
    observed = replace(observed, nodes={n: f for n, f in observed.nodes.items() if n == HOME or dice.random() > 0.05})
    again = list(settle(wanted, observed, 60.0))
    slices = max(len(decision.slices) for decision in observed.decided.values())
    columns = (max(first), max(again), first[-1])
    times = " | ".join(f"{1000 * taken:6.1f}" for taken in columns)
    return f"| {count:5} | {engine:4} | {spares:6} | {slices:6} | {len(first) + len(again):5} | {times} |"


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="How long the coordinator thinks about many machines.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--small", action="store_true", help="machines with room for a layer or two, without GPUs")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("| nodes | pool | spares | slices | plans | ms, all new | ms, some left | ms, nothing to do |")
    print("|---|---|---|---|---|---|---|---|")
    for count in options.nodes:
        for engine, spares in KINDS:
            print(measure(engine, spares, count, options), flush=True)


if __name__ == "__main__":
    main()
