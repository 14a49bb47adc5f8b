"""llama-server starts with what the plan prints, and puts the promised bytes where it promised."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from twd.engine.host_memory.limits import available_bytes
from twd.moe.convert import convert
from twd.moe.model import read_mixture
from twd.moe.placement import DeviceScore, MixturePlan, place
from twd.moe.server_arguments import server_arguments, shell_line
from twd.moe.summary import summarize
from twd.net.ports import free_port

MIB = 1 << 20
_BUFFER = re.compile(r"(\S+) model buffer size = +([\d.]+) MiB")


def program(variable: str, name: str) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twd" / "peers"
    built = next(cache.glob(f"*/build/bin/{name}"), None)
    found = os.environ.get(variable) or (str(built) if built else shutil.which(name))
    if not found:
        pytest.skip(f"no {name} here: run contrib/benchmarks/build_peers.sh, or set {variable}")
    return found


def planned(model: Path, address: str) -> tuple[MixturePlan, list[DeviceScore]]:
    worker = DeviceScore(f"RPC0[{address}]", 160 * MIB, 500e9, 1e-6)
    devices = [worker, DeviceScore("CPU", available_bytes(), 10e9)]
    return place(summarize(read_mixture(model)), devices), devices


@pytest.mark.parametrize("shell", ["sh", pytest.param("bash", marks=pytest.mark.thorough)])
def test_buffers_are_where_the_plan_says(upcycled: Path, tmp_path: Path, shell: str) -> None:
    server = program("TWD_LLAMA_SERVER", "llama-server")
    rpc = program("TWD_RPC_SERVER", "ggml-rpc-server")
    model = convert(upcycled, tmp_path / "fused.gguf", "fuse").path
    port = free_port()
    plan, devices = planned(model, f"127.0.0.1:{port}")
    assert len(plan.shares) == 2
    assert any("-ot" in argument for argument in server_arguments(plan, devices))
    worker = subprocess.Popen(
        [rpc, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        told = _started(shell, server, model, shell_line(server_arguments(plan, devices)), tmp_path / "log")
    finally:
        worker.kill()
        worker.wait()
    for share in plan.shares:
        held = sum(size for name, size in told.items() if name.startswith(share.device.name))
        assert held == pytest.approx((share.dense_bytes + share.expert_bytes) / MIB, abs=1.0), told


def _started(shell: str, server: str, model: Path, line: str, log: Path) -> dict[str, float]:
    command = f"exec {shlex.quote(server)} -m {model} -c 256 -np 1 --port {free_port()} -lv 4 {line}"
    with log.open("wb") as out:
        process = subprocess.Popen([shell, "-c", command], stdout=out, stderr=subprocess.STDOUT)
        try:
            for _ in range(600):
                text = log.read_text("utf-8", "replace")
                if "server: listening on" in text or process.poll() is not None:
                    break
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
    assert "server: listening on" in text, text[-3000:]
    return {name: float(size) for name, size in _BUFFER.findall(text)}
