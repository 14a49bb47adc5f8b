"""The head of a model's own file over RPC workers: it stays at home, where the hidden states come anyway."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.rpc.test_pool import running_worker
from tests.engine.slices.recipes import recipe
from tests.engine.test_own_head import load, text, write
from twd.engine.rpc.pool import LayerShare, PoolPlan, gpu_layers, layer_names, tensor_split
from twd.wire.job import Sampling

SAMPLED = Sampling(temperature=0.9, top_p=0.95, seed=7)


def test_its_layers_count_although_no_device_gets_them() -> None:
    plan = PoolPlan((LayerShare(2), LayerShare(6, "h:1")))
    assert gpu_layers(plan, 1) == 8
    assert tensor_split(plan, 1) == (8.0,)
    assert gpu_layers(PoolPlan((LayerShare(8),)), 1) == 0
    assert layer_names(8, 10) == rb"^blk\.(8|9)\."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head_here", "note"),
    [
        (True, "its own head guesses, "),
        pytest.param(
            False,
            "without a head: the model's own head does not guess over RPC: the output head lies on another",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_over_a_worker(tmp_path: Path, head_here: bool, note: str) -> None:
    path = recipe("qwen35 with a head").write(tmp_path / "model.gguf")
    whole = load(path)
    truth = text(write(whole, SAMPLED, 2))
    whole.close()
    with running_worker() as port:
        plan = PoolPlan((LayerShare(2), LayerShare(6, f"127.0.0.1:{port}")), head_here)
        told, guesses, found = written(path, plan)
    assert note in told
    assert found == str(truth)
    assert (int(guesses) > 0) == head_here


def written(path: Path, plan: PoolPlan) -> list[str]:
    """Write a text in a process of its own, which llama.cpp may end."""
    script = (
        "from pathlib import Path; from twd.engine.loading import *; from twd.engine.rpc.pool import *;"
        "from twd.wire.base import ModelId; from tests.engine.test_own_head import *;"
        f"plan = LoadPlan(ModelId('m'), Path({str(path)!r}), ctx_size=512, parallel=2, test=False, head=True,"
        f" pool={plan!r});"
        "m = load_native(plan, lambda share, stage: None);"
        "found = write(m, SAMPLINGS[1], 2);"
        "print(m.facts.note); print(sum(len(one.guesses) for one in found)); print(text(found)); m.close()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-3:]
