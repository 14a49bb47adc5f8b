"""What happens in a world: services, jobs and faults, all drawn from one seed."""

import random
from dataclasses import dataclass, field

FAULTS_UNTIL_S = 14.0
FAULTS = ("kill", "kill", "pause", "pause", "drain", "power", "partition", "cut", "broker", "noise", "noise")


@dataclass(frozen=True)
class Kill:
    """SIGKILL of one service; its keeper starts another."""

    at: float
    unit: str


@dataclass(frozen=True)
class Pause:
    """SIGSTOP, later SIGCONT."""

    at: float
    unit: str
    for_s: float


@dataclass(frozen=True)
class Drain:
    """SIGTERM: the service ends in good order, and its keeper starts another."""

    at: float
    unit: str


@dataclass(frozen=True)
class PowerCut:
    """A whole machine goes, and boots later."""

    at: float
    node: str
    for_s: float


@dataclass(frozen=True)
class Partition:
    """Nothing passes between two nodes; both still reach the broker's registry."""

    at: float
    nodes: tuple[str, str]
    for_s: float


@dataclass(frozen=True)
class CutOff:
    """A node loses the bus."""

    at: float
    node: str
    for_s: float


@dataclass(frozen=True)
class Noise:
    """The network loses, repeats, reorders and delays for a while."""

    at: float
    for_s: float
    drop: float
    repeat: float
    reorder: float
    delay_s: float


@dataclass(frozen=True)
class BrokerDown:
    """Every node loses the bus at once."""

    at: float
    for_s: float


Fault = Kill | Pause | Drain | PowerCut | Partition | CutOff | BrokerDown | Noise


@dataclass(frozen=True)
class PlannedJob:
    """One request of a client, and when it loses interest."""

    at: float
    edge: str
    prompt: str
    seed: int
    max_tokens: int | None
    deadline_s: float
    cancel_at: float | None = None


@dataclass(frozen=True)
class Plan:
    """One world. `units` says on which node each service runs; the name's first word is its kind."""

    seed: int
    units: dict[str, str]
    jobs: list[PlannedJob]
    faults: list[Fault] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        """All machines."""
        return sorted(set(self.units.values()))

    @property
    def faults_end(self) -> float:
        """From then on the world is left in peace."""
        return max((fault.at + getattr(fault, "for_s", 0.0) for fault in self.faults), default=0.0)


def draw_plan(seed: int, *, poison: str = "") -> Plan:
    """A world of a few nodes, a handful of jobs, and up to five faults."""
    dice = random.Random(f"plan {seed}")
    nodes = [f"n{i}" for i in range(dice.randint(2, 4))]
    units = {f"speculator-{i}": dice.choice(nodes[1:]) for i in range(dice.choice((1, 2, 2, 3)))}
    units |= {f"edge-{i}": nodes[0] if i == 0 else dice.choice(nodes) for i in range(dice.choice((1, 1, 2)))}
    units |= {f"drafter-{i}": dice.choice(nodes) for i in range(dice.choice((0, 0, 1)))}
    if dice.random() < 0.15:
        units["hostile-0"] = dice.choice(nodes)
    edges = [name for name in units if name.startswith("edge")]
    jobs = [_draw_job(dice, dice.choice(edges), poison) for _ in range(dice.randint(2, 7))]
    faults = [_draw_fault(dice, units, nodes) for _ in range(dice.choice((0, 1, 1, 2, 2, 3, 4, 5)))]
    return Plan(seed, units, sorted(jobs, key=lambda job: job.at), sorted(faults, key=lambda fault: fault.at))


def _draw_job(dice: random.Random, edge: str, poison: str) -> PlannedJob:
    at = dice.uniform(0.0, 10.0)
    deadly = poison and dice.random() < 0.02
    return PlannedJob(
        at=at,
        edge=edge,
        prompt=poison if deadly else f"p{dice.randrange(10**6)}",
        seed=dice.randrange(2**31),
        max_tokens=dice.choice((None, 0, 1, 8, 20, 30)),
        deadline_s=dice.choice((3.0, 15.0, 30.0, 60.0)),
        cancel_at=at + dice.uniform(0.0, 6.0) if dice.random() < 0.1 else None,
    )


def _draw_fault(dice: random.Random, units: dict[str, str], nodes: list[str]) -> Fault:
    at, unit, node = dice.uniform(0.5, FAULTS_UNTIL_S), dice.choice(list(units)), dice.choice(nodes)
    for_s = dice.choice((0.3, 2.0, 5.0, 9.0)) * dice.uniform(0.5, 1.0)
    match dice.choice(FAULTS):
        case "kill":
            return Kill(at, unit)
        case "pause":
            return Pause(at, unit, for_s)
        case "drain":
            return Drain(at, unit)
        case "power":
            return PowerCut(at, node, for_s)
        case "partition":
            one, other = dice.sample(nodes, 2)
            return Partition(at, (one, other), for_s)
        case "cut":
            return CutOff(at, node, for_s)
        case "broker":
            return BrokerDown(at, for_s)
        case _:
            drop, repeat, reorder = (dice.choice((0.0, 0.05, 0.2)) for _ in range(3))
            return Noise(at, for_s, drop, repeat, reorder, dice.choice((0.0, 0.05, 0.4, 1.5)))
