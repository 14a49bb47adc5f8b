"""A placement in llama.cpp's words, and a real model over real workers."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_until
from twd.engine.demo_model import demo_model
from twd.engine.rpc.pool import LayerShare, PoolPlan, gpu_layers, tensor_split
from twd.engine.rpc.probe import RpcUnusable, probe
from twd.engine.rpc.tensor_cache import LOCK, contents
from twd.net.delay_proxy import DelayProxy
from twd.net.ports import free_port

HASHED_BYTES = 10 * 1024**2
"""llama.cpp asks a worker whether it has a tensor only above this."""


def layers_of(split: tuple[float, ...], units: int) -> list[int]:
    """How llama.cpp deals so many units out by a split: each goes to the first device whose border lies beyond it."""
    total, borders = sum(split), [sum(split[: i + 1]) for i in range(len(split))]
    owners = [next(i for i, border in enumerate(borders) if unit / units < border / total) for unit in range(units)]
    return [owners.count(device) for device in range(len(split))]


@pytest.mark.parametrize("counts", [(1,), (15, 15), (3, 12, 15), (1, 1, 1, 29), (20, 0), (7, 11, 13, 17, 2)])
@pytest.mark.parametrize("head_here", [True, False])
def test_each_device_gets_just_its_layers_and_the_last_one_the_head(counts: tuple[int, ...], head_here: bool) -> None:
    plan = PoolPlan(tuple(LayerShare(count, f"h:{number}") for number, count in enumerate(counts)), head_here)
    assert gpu_layers(plan) == sum(counts) + 1
    assert layers_of(tensor_split(plan), sum(counts) + 1) == [*counts[:-1], counts[-1] + 1]


def test_layers_of_this_machine_come_first_and_need_no_device() -> None:
    plan = PoolPlan((LayerShare(10), LayerShare(20, "h:1")))
    assert (gpu_layers(plan), plan.endpoints) == (21, ("h:1",))
    alone = PoolPlan((LayerShare(30),))
    assert (gpu_layers(alone), tensor_split(alone)) == (0, ())


def test_what_was_measured_holds_when_layers_move_and_links_grow_long() -> None:
    before = PoolPlan((LayerShare(15, "h:1"), LayerShare(15, "h:2")), rtt_ms=4.0)
    assert before.kind == PoolPlan((LayerShare(30, "h:2"),), rtt_ms=4.0).kind
    assert before.kind == PoolPlan((LayerShare(30, "h:2"),), rtt_ms=40.0).kind
    assert before.kind != PoolPlan((LayerShare(30, "h:2", "CUDA0"),), rtt_ms=4.0).kind
    assert before.kind != PoolPlan((LayerShare(30, "h:2"),), head_here=False, rtt_ms=4.0).kind


def test_a_pool_is_on_cpus_only_where_each_of_its_devices_is_one() -> None:
    assert PoolPlan((LayerShare(10), LayerShare(20, "h:1"))).on_cpus
    assert not PoolPlan((LayerShare(10), LayerShare(10, "h:1"), LayerShare(10, "h:1", "CUDA0"))).on_cpus
    assert not PoolPlan((LayerShare(10, device="MTL0"), LayerShare(20, "h:1"))).on_cpus
    assert not PoolPlan((LayerShare(30, "h:1", "RTX 4090 #0"),)).on_cpus, "as the settings call it"


@pytest.fixture
def workers() -> Iterator[list[str]]:
    with running_worker() as first, running_worker() as second:
        yield [f"127.0.0.1:{port}" for port in (first, second)]


@contextmanager
def running_worker(*arguments: str) -> Iterator[int]:
    """The port of a worker that answers."""
    with worker_process(*arguments) as (port, _):
        yield port


@contextmanager
def worker_process(*arguments: str, log: Path = Path(os.devnull)) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A worker that answers, and its port. `log`: what it says."""
    port = free_port()
    argv = [sys.executable, "-m", "twd.engine.rpc.worker", "--threads", "1", "--port", str(port), *arguments]
    with log.open("wb") as out:
        worker = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=out)
    try:
        wait_until(lambda: worker.poll() is not None or answers(port), "the worker answers", 60)
        assert worker.poll() is None, f"the worker ended: {log.read_text()}"
        yield port, worker
    finally:
        worker.kill()
        worker.wait()


def answers(port: int) -> bool:
    try:
        asyncio.run(probe("127.0.0.1", port, 1.0))
    except RpcUnusable:
        return False
    return True


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("head_here", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_model_over_workers_and_this_machine_is_exact(
    workers: list[str], model_cache: Path, tmp_path: Path, head_here: bool
) -> None:
    plan = PoolPlan((LayerShare(4), LayerShare(13, workers[0]), LayerShare(13, workers[1])), head_here)
    told = loaded(demo_model(model_cache, "q8_0"), plan)
    assert told.startswith("True ")
    assert told.endswith("copies False"), "each tensor's copy would wait for its worker"


def loaded(path: Path, plan: PoolPlan) -> str:
    """Load in a process of its own, which llama.cpp may end; what the self-test said."""
    script = (
        "import sys; from pathlib import Path; from twd.engine.loading import *; from twd.engine.rpc.pool import *;"
        "from twd.wire.base import ModelId;"
        f"m = load_native(LoadPlan(ModelId('m'), Path({str(path)!r}), ctx_size=512, parallel=2, pool={plan!r}), print);"
        "print(m.exactness.exact, m.exactness.compared, 'copies', m.target.least_shared is not None); m.close()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.thorough
@pytest.mark.model
@pytest.mark.slow
def test_a_worker_that_has_seen_a_model_reads_the_large_tensors_from_its_own_disk(
    model_cache: Path, tmp_path: Path
) -> None:
    path, folder = demo_model(model_cache, "q8_0"), tmp_path / "weights" / "worker"
    sent = []
    for _ in range(2):
        with running_worker("--cache", str(folder)) as port:
            link = DelayProxy("127.0.0.1", port, 0.0)
            plan = PoolPlan((LayerShare(29), LayerShare(1, f"127.0.0.1:{asyncio.run(link.start())}")), head_here=False)
            assert loaded(path, plan).startswith("True ")
            sent.append(link.bytes_there)
            wait_until(lambda: checked(folder), "what was written is hashed", 60)
            asyncio.run(link.close())
    (head,) = contents(folder.parent)
    assert head.disk_bytes > HASHED_BYTES
    assert sent[0] - sent[1] > 0.9 * head.disk_bytes
    assert sent[1] < 0.3 * sent[0]


def checked(folder: Path) -> bool:
    """Whether all that a worker wrote is known to be whole."""
    files = [path for path in folder.iterdir() if path.name != LOCK]
    return bool(files) and not any(path.stat().st_mode & 0o222 for path in files)
