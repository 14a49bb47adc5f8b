"""What the machine's tools write, as values: samples in their formats, and this very machine."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.typed_json import JSON
from tests.waiting import alive, until
from twd.agent.builds import find_builds, parse_backends, parse_version
from twd.agent.probes import gpu as gpu_probe
from twd.agent.probes.cpu import cpu_facts, memory_facts, parse_cpuinfo
from twd.agent.probes.disk import disk_facts
from twd.agent.programs import ProgramFailed, output_of
from twd.engine.measuring.memory_speed import measure_bandwidth
from twd.settings.model import BinariesConfig
from twd.wire.node import GpuFacts

NVIDIA = """0, NVIDIA GeForce RTX 3090, 24576, 23552, 550.54.14
1, "NVIDIA RTX A6000, Ada", 49140, 48000, 550.54.14
2, NVIDIA GB10, [N/A], [N/A], 580.95.05
"""
ROCM = json.dumps(
    {
        "card1": {
            "Card Series": "Radeon RX 7900 XTX",
            "VRAM Total Memory (B)": "25753026560",
            "VRAM Total Used Memory (B)": "1000",
        },
        "card0": {"Card series": "N/A", "Card model": "0x744c", "VRAM Total Memory (B)": "17163091968"},
        "card2": {"Card Series": "broken", "VRAM Total Memory (B)": "N/A"},
        "system": {"Driver version": "6.8.5"},
    }
)
CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9654
flags\t\t: fpu sse3 avx avx2 avx512f amx_tile unheard_of
processor\t: 1
"""
SERVER = """ggml_cuda_init: found 1 CUDA devices:
version: 6730 (e60f01d9)
built with cc (Ubuntu 13.3.0) 13.3.0 for x86_64-linux-gnu
"""


def test_nvidia_cards() -> None:
    first, second = gpu_probe.parse_nvidia(NVIDIA)
    assert (first.name, first.backend, first.total, first.driver) == (
        "NVIDIA GeForce RTX 3090",
        "cuda",
        24576 * 1024**2,
        "550.54.14",
    )
    assert (second.index, second.name, second.free) == (1, "NVIDIA RTX A6000, Ada", 48000 * 1024**2)


def test_amd_cards_of_old_and_new_tools_in_order() -> None:
    first, second = gpu_probe.parse_rocm("WARNING: low power\n" + ROCM)
    assert (first.index, first.name, first.total) == (0, "0x744c", 17163091968)
    assert (second.name, second.free, second.driver) == ("Radeon RX 7900 XTX", 25753025560, "6.8.5")


def test_amd_cards_by_the_kernel(tmp_path: Path) -> None:
    for card, vendor, total in (
        ("card0", "0x8086", "5"),
        ("card0-DP-1", "0x1002", "7"),
        ("card1", "0x1002", "8589934592"),
        ("card10", "0x1002", "17179869184"),
    ):
        device = tmp_path / card / "device"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "mem_info_vram_total").write_text(f"{total}\n")
        (device / "mem_info_vram_used").write_text("4294967296\n")
    gpus = gpu_probe.read_drm(tmp_path)
    assert [(gpu.backend, gpu.index, gpu.total, gpu.free) for gpu in gpus] == [
        ("hip", 0, 8589934592, 4294967296),
        ("hip", 1, 17179869184, 12884901888),
    ], "as the driver counts them: monitors and others' cards have no number"


def test_the_engine_names_metal_vulkan_and_what_comes() -> None:
    devices = [
        {"name": "CPU", "description": "AMD", "kind": "cpu", "total": 1, "free": 1},
        {"name": "MTL0", "description": "Apple M2", "kind": "gpu", "total": 11, "free": 10},
        {"name": "Vulkan1", "description": "Intel Arc", "kind": "igpu", "total": 5, "free": 4},
        {"name": "SYCL0", "description": "Max", "kind": "gpu", "total": 3, "free": 2, "place": "0000:c1:00.0"},
    ]
    told = json.dumps({"version": "1", "path": "/p", "rpc": "7.0.0", "devices": devices})
    build, gpus = gpu_probe.parse_engine(told)
    assert (build.rpc, build.backends) == ("7.0.0", ["CPU", "MTL", "Vulkan", "SYCL"])
    assert [(gpu.backend, gpu.index, gpu.shared) for gpu in gpus] == [
        ("metal", 0, True),
        ("vulkan", 1, True),
        ("sycl", 0, False),
    ]
    assert [gpu.place for gpu in gpus] == ["", "", "0000:c1:00.0"]


async def test_where_amds_tool_tells_no_card_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [GpuFacts(name="kernel", backend="hip", index=0, total=1, free=1)]

    async def nothing(command: tuple[str, ...]) -> str:
        return "no card"

    monkeypatch.setattr("twd.agent.probes.gpu.shutil.which", lambda name: name if name == gpu_probe.ROCM[0] else None)
    monkeypatch.setattr(gpu_probe, "output_of", nothing)
    monkeypatch.setattr(gpu_probe, "read_drm", lambda folder: cards)
    assert await gpu_probe._amd([]) == cards


CELLS = st.integers(0, 10**12).map(str) | st.sampled_from(["[N/A]", '"a, b"', "x" * 300]) | st.text(max_size=8)
TABLES = st.lists(st.lists(CELLS, min_size=4, max_size=6).map(", ".join), max_size=4).map("\n".join)
CARDS = st.dictionaries(
    st.sampled_from(["Card Series", "Device Name", "VRAM Total Memory (B)", "VRAM Total Used Memory (B)"]), CELLS | JSON
)
TOLD = st.dictionaries(st.sampled_from(["card0", "card1", "cardx", "system"]), CARDS | JSON).map(json.dumps)


@given(TABLES, TOLD | st.text(max_size=300))
def test_whatever_the_tools_write_is_no_device_or_one_that_the_bus_takes(table: str, told: str) -> None:
    for gpu in (*gpu_probe.parse_nvidia(table), *gpu_probe.parse_rocm(told)):
        assert msgspec.json.decode(msgspec.json.encode(gpu), type=GpuFacts) == gpu


@pytest.mark.parametrize("measure", [False, True])
async def test_our_engine_tells_of_itself(measure: bool) -> None:
    notes: list[str] = []
    build, _ = await gpu_probe.engine_facts(notes, {}, measure=measure)
    assert notes == []
    assert build is not None
    assert "CPU" in build.backends


def test_the_processor() -> None:
    assert parse_cpuinfo(CPUINFO) == ("AMD EPYC 9654", ["sse3", "avx", "avx2", "avx512f", "amx_tile"])
    assert parse_cpuinfo("") == ("", [])
    here = cpu_facts(measure_bandwidth())
    assert 1 <= here.cores <= here.threads
    assert here.bandwidth > 10**8
    memory = memory_facts()
    assert 0 < memory.available <= memory.total


def test_a_disk_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (disk,) = disk_facts([tmp_path / "missing", tmp_path, tmp_path / "sub"])
    assert disk.path == str(tmp_path)
    assert 0 < disk.free <= disk.total


def test_versions_of_programs() -> None:
    assert parse_version(SERVER) == "6730 (e60f01d9)"
    assert parse_version("nothing") == ""
    assert parse_backends(SERVER) == ["CUDA"]


async def test_programs_that_are_there_are_asked(tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\necho 'version: 7 (abc)' >&2\n")
    server.chmod(0o755)
    builds = await find_builds(BinariesConfig(llama_server=str(server), rpc_server=str(tmp_path / "nowhere")))
    assert [(build.name, build.version) for build in builds if build.path == str(server)] == [
        ("llama-server", "7 (abc)")
    ]


async def test_a_program_that_hangs_fails_or_is_missing_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"did not answer within 0\.2 s"):
        await output_of((sys.executable, "-c", "import time; time.sleep(60)"), 0.2)
    with pytest.raises(ProgramFailed, match="exit code 3"):
        await output_of((sys.executable, "-c", "raise SystemExit(3)"), 30)
    with pytest.raises(ProgramFailed, match="cannot be started"):
        await output_of((str(tmp_path / "nothing"),))


@pytest.mark.parametrize("apart", [False, True])
async def test_what_a_hanging_program_started_is_not_waited_for(apart: bool, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = f"""
import pathlib, subprocess
child = subprocess.Popen(["sleep", "600"], start_new_session={apart})
pathlib.Path({str(told)!r}).write_text(f"{{child.pid}}.")
child.wait()
"""
    asking = asyncio.ensure_future(output_of((sys.executable, "-S", "-c", script), 600))  # noqa: TID251
    await until(lambda: told.exists() and told.read_text().endswith("."), "it has started something")
    child = int(told.read_text().rstrip("."))
    asking.cancel()
    try:
        await until(asking.cancelled, "it is over")
        if apart:
            assert alive(child), "it holds the output, and nobody waits for it"
        else:
            await until(lambda: not alive(child), "it ends with who started it")
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
