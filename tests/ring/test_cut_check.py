"""The check's text goes through a ring, and the last stage's reports say what the whole model would have given."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from tests.ring.fake_slices import LAYERS, VOCABULARY, FakeSlice
from tests.ring.homes import go_home
from tests.ring.rings import WAIT_S, fake_ring
from twd.engine.slices.check import PASSES, RecordedLogits, check_passes, compare, record, run_stages
from twd.engine.slices.engine import StageEngine
from twd.engine.slices.report import recorded_of
from twd.ring.cut_check import run_check, takes_check
from twd.wire.failures import FailureCode, TwdError


def whole() -> RecordedLogits:
    slice_ = cast(StageEngine, FakeSlice(0, LAYERS, head=True))
    return record(run_stages([slice_]), model="", settings="")


def leave(engines: list[FakeSlice]) -> None:
    """Change nothing."""


def bend(engines: list[FakeSlice]) -> None:
    """The first stage's states are wrong."""
    decode = engines[0].decode
    engines[0].decode = lambda *given: decode(*given) * 1.5  # type: ignore[method-assign]


def end_often(engines: list[FakeSlice]) -> None:
    """Some tokens of the text would end it."""
    engines[-1].end_tokens = frozenset(check_passes(VOCABULARY)[0][1][3:5])


def seen(stages: int, change: Callable[[list[FakeSlice]], None] = leave) -> RecordedLogits:
    with fake_ring(stages) as ring:
        change([cast(FakeSlice, one.server.engine) for one in ring.stages])
        home = go_home(ring)
        try:
            assert takes_check(home)
            return recorded_of(run_check(home, VOCABULARY), model="", build="", settings="")
        finally:
            home.close()
            assert home.join()


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("change", [leave, end_often])
def test_a_good_ring_reports_the_whole_models_logits(stages: int, change: Callable[[list[FakeSlice]], None]) -> None:
    found = seen(stages, change)
    assert compare(found, whole()).exact
    assert len(found.best) == sum(PASSES)


def test_a_ring_that_computes_something_else_is_found_out() -> None:
    verdict = compare(seen(2, bend), whole())
    assert not verdict.exact
    assert verdict.max_difference > 0.01


def test_a_ring_that_is_too_small_is_not_asked() -> None:
    with fake_ring(2, window_max=8) as ring:
        home = go_home(ring)
        assert not takes_check(home)
        home.close()
        assert home.join()


def test_what_a_stage_refuses_is_told() -> None:
    with fake_ring(2) as ring:
        home = go_home(ring)
        with pytest.raises(TwdError, match="the check of the cut failed: token"):
            run_check(home, VOCABULARY + 100_000)
        home.close()
        assert home.join()


def test_a_ring_that_ends_meanwhile_is_waited_for_no_more() -> None:
    """A stage may be lost while its cut is checked, or the model be told to go elsewhere."""
    reached, go_on = threading.Event(), threading.Event()
    with fake_ring(2) as ring, ThreadPoolExecutor(1) as pool:
        engine = cast(FakeSlice, ring.stages[-1].server.engine)
        decode = engine.decode

        def held(*given: Any) -> Any:
            reached.set()
            assert go_on.wait(WAIT_S)
            return decode(*given)

        engine.decode = cast(Any, held)  # type: ignore[method-assign]
        home = go_home(ring)
        check = pool.submit(run_check, home, VOCABULARY)
        try:
            assert reached.wait(WAIT_S)
            home.close(TwdError(FailureCode.WORKER_LOST, "the model goes elsewhere"))
            with pytest.raises(TwdError, match="the model goes elsewhere"):
                check.result(WAIT_S)
            assert home.answers(WAIT_S) == [], "nor whenever it is asked again"
        finally:
            go_on.set()
            assert home.join()
