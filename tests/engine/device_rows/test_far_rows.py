"""Logits that stay with an RPC worker."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.rpc.test_pool import running_worker
from tests.engine.tiny_models import write_llama
from tests.rules.source import ROOT
from twd.engine.device_rows.binding import LogitsPlace
from twd.engine.device_rows.trial import logits_place
from twd.engine.rpc.pool import LayerShare, PoolPlan

INSIDE = """
import ctypes, sys
from pathlib import Path
from twd.engine.steps import binding
binding.library = lambda library=ctypes.CDLL(sys.argv[1]): library
from tests.engine.device_rows.test_device_rows import batch, computed, context_of, drafted, target_of
from twd.decoding.sampler import SamplerFactory
from twd.engine.device_rows.binding import LogitsPlace
from twd.engine.device_rows.choices import USUAL
from twd.engine.device_rows.trial import try_device_rows
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.steps.binding import RuleHolder
from twd.engine.rpc.pool import LayerShare, PoolPlan, gpu_layers, open_devices, tensor_split
from twd.wire.job import Sampling
plan = PoolPlan((LayerShare(2, sys.argv[3]),), head_here=False)
options = ModelLoadOptions(
    Path(sys.argv[2]), gpu_layers=gpu_layers(plan), devices=open_devices(plan), tensor_split=tensor_split(plan)
)
with LoadedGguf.load(options) as model:
    with context_of(model) as context:
        rows = batch([(4, 0), (4, 1), (4, 3)])
        home = computed(context, rows)
        assert context.leave_logits(LogitsPlace.FAR)
        there = computed(context, rows)
        assert {row: one.tobytes() for row, one in home.items()} == {row: one.tobytes() for row, one in there.items()}
        assert {row: context.peak(row) for row in home} == {row: one.argmax() for row, one in home.items()}
        for seed, sampling in enumerate(USUAL * 4):
            sampler = SamplerFactory(model.vocab).sampler(sampling, seed, prompt_len=0)
            picks = {row: context.choice(row, RuleHolder(sampler.rule), [1, 2, 3]) for row in home}
            assert any(one is not None for one in picks.values())
            assert all(one in (None, sampler.pick(home[row], [1, 2, 3])) for row, one in picks.items())
    with context_of(model) as context:
        trial = try_device_rows(context, LogitsPlace.FAR)
        assert trial.there_ms and not trial.problem, trial
    found = []
    for stays in (False, True):
        target = target_of(model, stays=stays, place=LogitsPlace.FAR)
        found.append([drafted(target, one, 1) for one in (Sampling(), Sampling(temperature=0.8))])
        target.shutdown()
    assert found[0] == found[1]
print("the same")
"""


@pytest.mark.model
@pytest.mark.slow
def test_a_worker_keeps_logits_and_picks_are_the_same(loop_library: ctypes.CDLL, tmp_path: Path) -> None:
    """In a process of its own, as llama.cpp ends one whose worker is lost."""
    path = write_llama(tmp_path / "lively.gguf", lively=3.0, copies=4)
    with running_worker() as port:
        argv = [sys.executable, "-c", INSIDE, loop_library._name, str(path), f"127.0.0.1:{port}"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout.endswith("the same\n"), done.stderr[-2000:]


HERE, FAR, FAR_CARD, CARD = (
    LayerShare(4),
    LayerShare(4, "h:1"),
    LayerShare(4, "h:1", "CUDA0"),
    LayerShare(4, "", "CUDA0"),
)


@pytest.mark.parametrize(
    ("pool", "offloads", "place"),
    [
        (None, True, LogitsPlace.CARD),
        (None, False, None),
        (PoolPlan((HERE, FAR), head_here=False), True, LogitsPlace.FAR),
        (PoolPlan((HERE, FAR)), True, None),
        (PoolPlan((HERE, FAR_CARD), head_here=False), True, None),
        (PoolPlan((HERE, FAR_CARD, CARD), head_here=False), True, LogitsPlace.CARD),
        (PoolPlan((HERE,)), False, None),
    ],
)
def test_logits_may_stay_on_cards_here_and_on_processors_elsewhere(
    pool: PoolPlan | None, offloads: bool, place: LogitsPlace | None
) -> None:
    assert logits_place(pool, offloads=offloads) is place
