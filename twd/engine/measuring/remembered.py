"""Keeps the measurements of a model on disk, so that a restarted process need not measure again."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from twd import __version__
from twd.engine.context import ContextSettings
from twd.engine.device_rows.trial import RowsTrial
from twd.engine.library import LIBRARIES, devices, llama, start, version
from twd.kit.json_cache import file_name
from twd.process.cores import usable_cores
from twd.wire.model import CostPoint, Exactness

LEAST_MS: Final = 0.01


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of a load. `exactness` depends on file, build and machine; later passes correct the times."""

    exactness: Exactness
    cost: list[CostPoint]
    together: int = 1
    """How many sessions share each pass where all passes have one width."""
    rows: RowsTrial | None = None
    """Whether logits stay on the device; None: not tried."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The conditions of a measurement: it is not valid for another file, build, machine or setting."""

    file: str
    size: int
    changed_ns: int
    settings: ContextSettings
    rows_min: int
    gpu_layers: int
    devices: tuple[str, ...]
    pool: str
    repacked: bool
    tested: bool
    """Whether the self-test against single steps ran; otherwise passes were only timed."""
    cores: int
    machine: str
    build: str

    @property
    def name(self) -> str:
        """A file name for these conditions."""
        return file_name("timed", self)


def circumstances(
    path: Path,
    settings: ContextSettings,
    rows_min: int,
    gpu_layers: int,
    pool: str = "",
    *,
    repacked: bool = False,
    tested: bool = True,
) -> Circumstances:
    """The conditions of this process and a model's file; `pool` says how its layers are distributed."""
    start()
    stat = path.stat()
    return Circumstances(
        file=str(path.resolve()),
        size=stat.st_size,
        changed_ns=stat.st_mtime_ns,
        settings=settings,
        rows_min=rows_min,
        gpu_layers=gpu_layers,
        devices=_devices() if gpu_layers and not pool else (),
        pool=pool,
        repacked=repacked,
        tested=tested,
        cores=usable_cores(),
        machine=f"{platform.node()} {platform.machine()}",
        build=build_id(),
    )


def _devices() -> tuple[str, ...]:
    return tuple(f"{device.name} {device.description}" for device in devices() if device.is_gpu)


def build_id() -> str:
    """Names this build of llama.cpp and the CPU instructions that it uses."""
    start()
    return f"{__version__} {version()} {_library_stamp()} {llama.llama_print_system_info().decode()}"


def farther(found: Measurement, ms: float) -> Measurement:
    """The same measurement over links that take `ms` longer, or shorter if negative."""
    cost = [CostPoint(width=point.width, ms=max(LEAST_MS, round(point.ms + ms, 4))) for point in found.cost]
    return msgspec.structs.replace(found, cost=cost)


def _library_stamp() -> int:
    """The latest change of the libraries in ns: another build of the same version may compute in another way."""
    return max((file.stat().st_mtime_ns for file in LIBRARIES.iterdir()), default=0) if LIBRARIES.is_dir() else 0
