"""What the stage service needs of a loaded slice."""

from collections.abc import Callable
from dataclasses import dataclass

from twd.kit.progress import Progress
from twd.stage.engine import SliceEngine
from twd.stage.server import HeldSlice
from twd.stage.timing import SliceTiming
from twd.wire.base import InstanceId, NodeId
from twd.wire.ring import StageReady


@dataclass(frozen=True)
class LoadedSlice:
    """A slice in memory, ready to compute."""

    held: HeldSlice
    engine: SliceEngine
    timing: SliceTiming
    build: str = ""
    settings: str = ""
    load_ms: int = 0
    offloads: bool = False
    """Whether the slice is on GPUs or other devices, not on the CPU."""

    def described(self, stage: InstanceId, node: NodeId, host: str, port: int, certificate: str) -> StageReady:
        """Return what others are told of it, and of the address where it listens."""
        held, engine, timing = self.held, self.engine, self.timing
        return StageReady(
            stage=stage,
            node=node,
            model=held.model,
            file_hash=held.file_hash,
            first=held.first,
            end=held.end,
            layers=held.layers,
            head=held.head,
            host=host,
            port=port,
            certificate=certificate,
            slots=engine.n_slots,
            ctx_size=engine.ctx_size,
            window_max=engine.window_max,
            n_embd=engine.n_embd,
            build=self.build,
            settings=self.settings,
            layer_ms=timing.layer_ms,
            head_ms=timing.head_ms,
            cost=timing.cost,
            load_ms=self.load_ms,
            guess_ms=engine.guesser.step_ms if engine.guesser is not None else 0.0,
        )


Load = Callable[[Progress], LoadedSlice]
"""Loads the slice and reports its progress; runs on a thread of its own."""
