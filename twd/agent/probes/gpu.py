"""GPUs: NVIDIA's and AMD's own tools, the kernel's files, and whatever our engine can compute on (Metal, Vulkan)."""

import asyncio
import csv
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from twd.agent.programs import ProgramFailed, output_of
from twd.wire.base import INT64_MAX
from twd.wire.node import Build, GpuFacts

MIB: Final = 1024 * 1024
NVIDIA_QUERY: Final = "index,name,memory.total,memory.free,driver_version"
NVIDIA: Final = ("nvidia-smi", f"--query-gpu={NVIDIA_QUERY}", "--format=csv,noheader,nounits")
ROCM: Final = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")
ENGINE: Final = (sys.executable, "-P", "-m", "twd.engine.devices.describe")
ENGINE_S: Final = 30.0
DRM: Final = Path("/sys/class/drm")
AMD_VENDOR: Final = "0x1002"
_CARD: Final = re.compile(r"card([0-9]{1,4})")
_BACKENDS: Final = (
    *(("CUDA", "cuda"), ("ROCm", "hip"), ("HIP", "hip"), ("MTL", "metal"), ("Metal", "metal"), ("Vulkan", "vulkan")),
    *(("GPUOpenCL", "opencl"), ("SYCL", "sycl"), ("MUSA", "musa"), ("CANN", "cann")),
)


async def vendor_gpus(notes: list[str]) -> list[GpuFacts]:
    """Return the GPUs that the vendors' tools report; a tool that fails is named in `notes`."""
    nvidia, amd = await asyncio.gather(_nvidia(notes), _amd(notes))
    return [*nvidia, *amd]


async def _nvidia(notes: list[str]) -> list[GpuFacts]:
    if shutil.which(NVIDIA[0]) is None:
        return []
    try:
        return parse_nvidia(await output_of(NVIDIA))
    except ProgramFailed as problem:
        notes.append(str(problem))
        return []


async def _amd(notes: list[str]) -> list[GpuFacts]:
    if shutil.which(ROCM[0]) is not None:
        try:
            if gpus := parse_rocm(await output_of(ROCM)):
                return gpus
        except ProgramFailed as problem:
            notes.append(str(problem))
    return read_drm(DRM)


def parse_nvidia(text: str) -> list[GpuFacts]:
    """Return the GPUs in nvidia-smi's table; a device without memory of its own is left out, and the engine lists
    it."""
    return [gpu for line in text.splitlines() if (gpu := _nvidia_row(line))]


def _nvidia_row(line: str) -> GpuFacts | None:
    row = next(csv.reader([line], skipinitialspace=True), [])
    if len(row) < 5 or not all(cell.strip().isdecimal() for cell in (row[0], row[2], row[3])):
        return None
    index, name, total, free, driver = (cell.strip() for cell in row[:5])
    return GpuFacts(
        name=name[:256],
        backend="cuda",
        index=int(index),
        total=int(total) * MIB,
        free=int(free) * MIB,
        driver=driver[:256],
    )


def parse_rocm(text: str) -> list[GpuFacts]:
    """Return the GPUs in rocm-smi's JSON; older and newer tools use different keys."""
    try:
        cards = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return []
    cards = {name: card for name, card in cards.items() if isinstance(card, dict)}
    driver = str(cards.get("system", {}).get("Driver version", ""))
    found = sorted(
        ((int(m[1]), card) for name, card in cards.items() if (m := _CARD.fullmatch(name))), key=itemgetter(0)
    )
    return [gpu for index, card in found if (gpu := _rocm_card(index, card, driver))]


def _rocm_card(index: int, card: dict[str, Any], driver: str) -> GpuFacts | None:
    total = _number(card, "VRAM Total Memory (B)")
    if not total:
        return None
    used = _number(card, "VRAM Total Used Memory (B)")
    names = (card.get(key) for key in ("Card Series", "Card series", "Card Model", "Card model", "Device Name"))
    name = next((str(name) for name in names if name and name != "N/A"), "AMD GPU")
    return GpuFacts(
        name=name[:256], backend="hip", index=index, total=total, free=max(0, total - used), driver=driver[:256]
    )


def _number(card: dict[str, Any], key: str) -> int:
    value = str(card.get(key, ""))
    return min(int(value), INT64_MAX) if value.isdecimal() else 0


def read_drm(folder: Path) -> list[GpuFacts]:
    """Return the AMD GPUs that the kernel lists below /sys/class/drm, numbered among themselves as their driver
    does."""
    numbers = sorted(int(card.name[4:]) for card in folder.glob("card*") if card.name[4:].isdecimal())
    found = [gpu for number in numbers if (gpu := _drm_card(folder / f"card{number}"))]
    return [replace(gpu, index=index) for index, gpu in enumerate(found)]


def amd_cards() -> int:
    """Return the number of AMD GPUs, without asking a tool."""
    return len(read_drm(DRM))


def _drm_card(card: Path) -> GpuFacts | None:
    device = card / "device"
    try:
        if (device / "vendor").read_text().strip() != AMD_VENDOR:
            return None
        total = int((device / "mem_info_vram_total").read_text())
        used = int((device / "mem_info_vram_used").read_text())
    except (OSError, ValueError):  # no memory of its own, or the driver does not report it
        return None
    name = device / "product_name"
    title = name.read_text().strip() if name.exists() else ""
    return GpuFacts(name=title or "AMD GPU", backend="hip", total=total, free=max(0, total - used))


async def engine_facts(
    notes: list[str], environment: Mapping[str, str], *, measure: bool = False
) -> tuple[Build | None, list[GpuFacts]]:
    """Return our own build of llama.cpp and the GPUs that it sees; None where it fails. A separate process asks, with
    the environment of processes that compute. `measure`: also measure the speed of GPU memory."""
    argv = (*ENGINE, "--measure") if measure else ENGINE
    try:
        return parse_engine(await output_of(argv, ENGINE_S, environment=environment))
    except ProgramFailed as problem:
        notes.append(f"our engine cannot be asked for its devices: {problem}")
    except ValueError as problem:
        notes.append(f"our engine told nonsense about its devices: {problem}")
    return None, []


def parse_engine(text: str) -> tuple[Build, list[GpuFacts]]:
    """Parse the output of `twd.engine.devices.describe`."""
    told = json.loads(text)
    devices = told["devices"]
    backends = dict.fromkeys(re.sub(r"\d+$", "", device["name"]) for device in devices)
    build = Build(name="engine", version=told["version"], path=told["path"], backends=list(backends), rpc=told["rpc"])
    return build, list(_engine_gpus(devices))


def _engine_gpus(devices: list[dict[str, Any]]) -> Iterator[GpuFacts]:
    for device in devices:
        if device["kind"] not in ("gpu", "igpu"):
            continue
        number = re.search(r"(\d+)$", device["name"])
        backend = next((kind for start, kind in _BACKENDS if device["name"].startswith(start)), "")
        backend = backend or re.sub(r"\d+$", "", device["name"])
        yield GpuFacts(
            name=device["description"][:256],
            backend=backend,
            index=int(number[1]) if number else 0,
            total=device["total"],
            free=device["free"],
            shared=device["kind"] == "igpu" or backend == "metal",
            bandwidth=device.get("bandwidth", 0),
            place=device.get("place", "")[:64],
            device=device["name"][:256],
        )
