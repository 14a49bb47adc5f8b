"""The graphs of every architecture pass the door of an RPC worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.rpc.test_pool import running_worker
from tests.engine.slices.recipes import names

GROUPS = 12
_EACH = """
import sys
from pathlib import Path
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.engine.rpc.pool import LayerShare, PoolPlan
from twd.gguf_tools.inspect import inspect
from twd.wire.base import ModelId
from types import SimpleNamespace
from tests.engine.slices.recipes import VOCABULARY, recipe
from twd.engine.device_rows import trial
from twd.decoding.window import Window
from twd.wire.job import Sampling

trial.time = SimpleNamespace(perf_counter=lambda: 0.0)  # so that logits stay there wherever they can
endpoint, folder, *asked = sys.argv[1:]
for name in asked:
    print(name, flush=True)
    path = recipe(name).write(Path(folder) / f"{name}.gguf")
    pool = PoolPlan((LayerShare(inspect(path).layers, endpoint),), head_here=False)
    model = load_native(LoadPlan(ModelId("m"), path, ctx_size=256, parallel=1, threads=1, pool=pool), lambda a, b: None)
    prompt = [token % (VOCABULARY - 2) + 1 for token in range(3, 40, 2)]
    sampler = model.samplers.sampler(Sampling(), 0, prompt_len=len(prompt))
    slot, cached = model.target.open(prompt, sampler)
    for rows in (prompt[cached:], [5], [6, 7, 8]):
        model.target.submit([Window(slot, 0, cached, tuple(rows), committed=len(rows))])
        (verdict,) = model.target.collect()
        assert verdict.failure is None, verdict.failure
        cached += len(rows)
    model.close()
    path.unlink()
print("all", flush=True)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("group", range(GROUPS))
def test_no_architecture_is_refused_at_the_door(group: int, tmp_path: Path) -> None:
    with running_worker() as port:
        command = [sys.executable, "-c", _EACH, f"127.0.0.1:{port}", str(tmp_path), *names()[group::GROUPS]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.split()[-1:] == ["all"], (done.stdout[-200:], done.stderr[-2000:])
