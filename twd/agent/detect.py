"""Collects one machine's facts from the probes; a probe whose answer seldom changes is seldom asked."""

import asyncio
import platform
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec.structs import replace

import twd
from twd.agent.builds import find_builds
from twd.agent.core import merge_gpus, with_steps
from twd.agent.environment import environment_here
from twd.agent.model_scan import ModelScan
from twd.agent.probes.cpu import cpu_facts, memory_facts
from twd.agent.probes.disk import disk_facts
from twd.agent.probes.disk_speed import DiskSpeeds
from twd.agent.probes.gpu import engine_facts, vendor_gpus
from twd.engine.measuring.memory_speed import measure_bandwidth
from twd.engine.measuring.steps import known_steps
from twd.process.home import StateFolder
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import Build, CpuFacts, GpuFacts, MeasuredStep, ModelFile, NodeFacts

ENGINE_EVERY_S: Final = 60.0
"""Seconds between questions to the engine; it is asked again only if it sees devices or gave no answer yet."""
MODELS_EVERY_S: Final = 30.0
NOTE_MAX: Final = 1024
"""Characters of a note that others receive; a longer one, for example with a path, is cut."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_DRAWN: Final = 1 << 40
"""This bit of a network address marks one that was chosen at random."""


@dataclass
class MachineDetector:
    """Collects the facts of this machine. `look` is cheap: some milliseconds, and tens where there are GPUs."""

    settings: Settings
    node: NodeId
    instance: InstanceId
    pid: int
    notes: list[str] = field(default_factory=list)
    _cpu: CpuFacts | None = None
    _steps: list[MeasuredStep] = field(default_factory=list)
    _models: list[ModelFile] = field(default_factory=list)
    _disks: dict[int, int] = field(default_factory=dict)
    _engine: Build | None = None
    _programs: list[Build] | None = None
    _engine_gpus: list[GpuFacts] = field(default_factory=list)
    _vendors: list[GpuFacts] = field(default_factory=list)
    _engine_at: float = float("-inf")
    _models_at: float = float("-inf")

    def __post_init__(self) -> None:
        named = [path_of(model.path) for model in self.settings.models.values() if model.path]
        self.scan = ModelScan(self.model_dirs, named)
        self._speeds = DiskSpeeds(StateFolder(self.settings.home_dir).cache)

    @property
    def model_dirs(self) -> tuple[Path, ...]:
        """The folders that are searched for models."""
        home = self.settings.home_dir / "models"
        named = (path_of(folder) for folder in self.settings.agent.model_dirs)
        return (*((home,) if home.is_dir() else ()), *named)

    async def look(self, now: float) -> NodeFacts:
        """Return the facts now; values that are asked seldom come from the last time. The probes run at the same
        time."""
        notes: list[str] = []
        if self._cpu is None:  # measured first and alone: other work at the same time would make memory look slow
            self._cpu = cpu_facts(measure_bandwidth())
        self._steps = await asyncio.to_thread(known_steps, StateFolder(self.settings.home_dir).cache)
        vendors, *_ = await asyncio.gather(
            self._ask_vendors(notes), self._ask_engine(now, notes), self._find_programs(), self._scan_models(now)
        )
        self.notes = [note[:NOTE_MAX] for note in (*notes, *self.scan.notes)]
        gpus = [] if self._on_processor else with_steps(merge_gpus(vendors, self._engine_gpus), self._steps)
        return replace(self.glance(), gpus=gpus, notes=self.notes[:16], looking=False)

    def glance(self) -> NodeFacts:
        """Return the facts that need no slow probe; `looking` is True in them."""
        machine = machine_name()
        return NodeFacts(
            node=self.node,
            instance=self.instance,
            machine=machine,
            computer="" if self.settings.agent.counts_alone else machine,
            pid=self.pid,
            hostname=platform.node(),
            platform=f"{platform.system().lower()}-{platform.machine()}",
            version=twd.__version__,
            cpu=replace(self._cpu or cpu_facts(), measured=[step for step in self._steps if not step.device]),
            memory=memory_facts(),
            disks=disk_facts((self.settings.home_dir, *self.model_dirs), self._disks),
            models=self._models,
            builds=[*([self._engine] if self._engine else []), *(self._programs or ())],
            looking=True,
        )

    @property
    def _environment(self) -> dict[str, str]:
        """The environment of processes that compute: a device that it hides must not be in plans either."""
        return environment_here(self.settings, self.settings.engine.backend)

    @property
    def _on_processor(self) -> bool:
        """Whether this machine computes on the CPU only and ignores its GPUs."""
        return self.settings.engine.backend == "cpu"

    async def _ask_vendors(self, notes: list[str]) -> list[GpuFacts]:
        problems: list[str] = []
        found = [] if self._on_processor else await vendor_gpus(problems)
        notes += problems
        self._vendors = self._vendors or found if problems else found  # a failed tool says nothing of a GPU
        return self._vendors

    async def _ask_engine(self, now: float, notes: list[str]) -> None:
        first = self._engine_at == float("-inf")
        unsure = bool(self._engine_gpus) or self._engine is None
        if first or (unsure and now - self._engine_at >= ENGINE_EVERY_S):
            self._engine_at = now
            build, gpus = await self._measured(notes) if first else await engine_facts(notes, self._environment)
            if build is None:  # no answer, perhaps under load: keep the last facts
                return
            speeds = {(gpu.backend, gpu.index): gpu.bandwidth for gpu in (*gpus, *self._engine_gpus) if gpu.bandwidth}
            self._engine = build
            self._engine_gpus = [replace(gpu, bandwidth=speeds.get((gpu.backend, gpu.index), 0)) for gpu in gpus]

    async def _measured(self, notes: list[str]) -> tuple[Build | None, list[GpuFacts]]:
        """Ask the engine for the first time, with measurements; if these fail, ask again without them."""
        problems: list[str] = []
        build, gpus = await engine_facts(problems, self._environment, measure=True)
        if build is None:
            build, gpus = await engine_facts(notes, self._environment)
            notes += [f"the memory of the GPUs could not be measured: {problem}" for problem in problems if build]
        return build, gpus

    async def _find_programs(self) -> None:
        if self._programs is None:
            self._programs = await find_builds(self.settings.agent.binaries)

    async def _scan_models(self, now: float) -> None:
        if now - self._models_at >= MODELS_EVERY_S:
            self._models_at = now
            self._models = await asyncio.to_thread(self.scan.scan)
            self._disks = await asyncio.to_thread(self._speeds.of, self._models)


def machine_name(boot_id: Path = _BOOT_ID) -> str:
    """Return a name that differs between machines with the same host name; it is the same in all processes of a
    machine."""
    address = uuid.getnode()
    if address & _DRAWN and boot_id.exists():  # no network card: Python's random number differs in each process
        return f"{platform.node()}-{boot_id.read_text().strip()}"
    return f"{platform.node()}-{address:012x}"
