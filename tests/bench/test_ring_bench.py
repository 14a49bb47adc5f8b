"""`twd bench --ring` end to end, as small as it gets; speeds are not judged here."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model_fixtures import model_cache, q4_path
from twd.bench.rates import rate_together
from twd.bench.ring.run import RingBench, RingBenchRun, even_cuts

__all__ = ["model_cache", "q4_path"]


@given(stages=st.integers(1, 12), more=st.integers(0, 80))
def test_cuts_leave_every_stage_a_layer(stages: int, more: int) -> None:
    layers = stages + more
    cuts = even_cuts(layers, stages)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, layers, stages + 1)
    assert all(first < end for first, end in itertools.pairwise(cuts))


def test_sessions_at_once_are_counted_while_all_of_them_run() -> None:
    early, late = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 3.0, 3.5, 4.0, 9.0]
    assert rate_together([early, late]) == pytest.approx(6 / 2.0)
    assert rate_together([early]) == pytest.approx(1.0)
    assert rate_together([[0.0, 1.0], [5.0, 6.0]]) == 0.0


@pytest.mark.thorough
def test_plain_decoding_beside_rpc_workers(q4_path: Path, tmp_path: Path) -> None:
    plan = RingBench(
        source=q4_path, folder=tmp_path, rtts=(2.0,), wrong=(), sessions=(1,), texts=1, tokens=8, beside_rpc=True
    )
    figures = RingBenchRun(plan, lambda line: None).run()
    (distance,) = figures.document["distances"]
    assert distance["rpc_plain"] > 0


@pytest.mark.thorough
@pytest.mark.parametrize(("draft", "away"), [(False, False), (True, False), (True, True)])
def test_a_small_run(q4_path: Path, tmp_path: Path, draft: bool, away: bool) -> None:
    plan = RingBench(
        source=q4_path,
        folder=tmp_path,
        rtts=(2.0,),
        wrong=(0.1,),
        windows=(3,),
        sessions=(1, 2),
        texts=1,
        tokens=12,
        draft=q4_path if draft else None,
        draft_away=away,
    )
    told: list[str] = []
    figures = RingBenchRun(plan, told.append).run()
    assert figures.equal
    (distance,) = figures.document["distances"]
    assert distance["plain"] > 0
    assert set(distance["sessions"]) == {"1", "2"}
    model = f"{q4_path.stem}, own machine" if away else q4_path.stem
    assert [kind["guesses"] for kind in distance["drafted"]] == ["10% wrong", *([model] if draft else [])]
    assert all(kind["several_in_flight"] > 0 for kind in distance["drafted"])
    assert told
