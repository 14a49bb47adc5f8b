"""A pool on one machine: agents that act as separate machines, behind links with a chosen delay."""

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.process.home import StateFolder
from twd.process.supervisor import ProcessSpec
from twd.settings.model import GateConfig, Settings
from twd.supervisor.processes import RUN
from twd.wire.names import subject_token

NODES_MAX: Final = 16
NODES: Final = "nodes"


class SimulatedMachines(NamedTuple):
    """How many machines to simulate, their round-trip time in milliseconds, and the engine that joins them."""

    engine: str
    machines: int
    rtt_ms: float
    bare: int = 0
    """So many of them, the last ones, have no copy of a model."""

    @classmethod
    def asked(cls, rpc: int, ring: int, rtt_ms: float, bare: int = 0) -> "SimulatedMachines | None":
        """Return what the options of `twd up` ask for; None where they ask for no simulation."""
        if rpc and ring:
            raise CommandError(ExitCode.USAGE, "--rpc and --ring exclude each other: keep one")
        if bare and not 0 < bare < ring:
            text = "--bare N goes with --ring M, of which one machine has the files at least"
            raise CommandError(ExitCode.USAGE, text)
        if not rpc and not ring:
            if rtt_ms:
                raise CommandError(ExitCode.USAGE, "--link-rtt goes with --ring or --rpc, whose links it makes slower")
            return None
        if not 1 <= rpc + ring <= NODES_MAX or rtt_ms < 0:
            text = f"one machine plays 1 to {NODES_MAX} others, and no link is quicker than 0 ms"
            raise CommandError(ExitCode.USAGE, text)
        return cls("rpc" if rpc else "ring", rpc or ring, rtt_ms, bare)

    @property
    def options(self) -> tuple[str, ...]:
        """The command-line options that give this value."""
        told = (f"--{self.engine}={self.machines}", f"--link-rtt={self.rtt_ms:g}")
        return (*told, f"--bare={self.bare}") if self.bare else told

    def settings(self, settings: Settings) -> Settings:
        """Return settings that spread the models evenly over these machines; the machines use the same model files."""
        pool = msgspec.structs.replace(settings.pool, engine=self.engine, split="even", layers_at_home=False)
        return msgspec.structs.replace(settings, mode="combined", pool=pool)

    def agents(self) -> list[ProcessSpec]:
        """Return the process of an agent for each machine."""
        return [self._agent(number) for number in range(1, self.machines + 1)]

    def _agent(self, number: int) -> ProcessSpec:
        name, bare = f"node-{number}", number > self.machines - self.bare
        argv = (*RUN, "agent", "--node", name, "--link-rtt", f"{self.rtt_ms:g}", *(("--bare",) if bare else ()))
        return ProcessSpec(f"agent.{name}", argv, node=name)


def homes_of_played(home: StateFolder) -> list[StateFolder]:
    """Return the state folders of machines that were simulated here."""
    return [StateFolder(folder) for folder in sorted((home.path / NODES).glob("*"))]


def as_node(settings: Settings, name: str, *, bare: bool = False) -> Settings:
    """Return the settings of a simulated machine: with a name, folder and ports of its own; `bare`: without models."""
    home = StateFolder(settings.home_dir / NODES / name)
    home.prepare()
    models = (str(settings.home_dir / "models"), *settings.agent.model_dirs)
    agent = msgspec.structs.replace(settings.agent, port=0, model_dirs=models, counts_alone=True)
    pool = msgspec.structs.replace(settings.pool, stage_port=0)
    swarm = msgspec.structs.replace(settings.swarm, port=0, accept=settings.swarm.accept or bare)
    keys = Path(settings.bus.nkey_dir).with_name(subject_token(name)) if settings.bus.nkey_dir else None
    bus = msgspec.structs.replace(settings.bus, nkey_dir=str(keys)) if keys and keys.is_dir() else settings.bus
    if bare:
        agent = msgspec.structs.replace(agent, model_dirs=())
        settings = msgspec.structs.replace(settings, models={}, backends={}, drafters=(), gate=GateConfig())
    own = {"agent": agent, "pool": pool, "swarm": swarm, "bus": bus}
    return msgspec.structs.replace(settings, node=name, home=str(home.path), **own)
