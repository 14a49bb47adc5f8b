"""Models on their way, as their machines tell it."""

from twd.pools.transfers import FAILED_S, SILENT_S, TransfersView
from twd.wire.base import NodeId
from twd.wire.failures import Failure, FailureCode
from twd.wire.swarm import LayerRange, PullFailed, PullFinished, PullProgressed

ROOT, SHED = "a" * 64, NodeId("shed")
HALF = LayerRange(first=0, end=16, head=True)


def progressed(done: int, layers: LayerRange | None = None, eta_s: float | None = 2.0) -> PullProgressed:
    return PullProgressed(
        node=SHED,
        root=ROOT,
        file="m.gguf",
        done_bytes=done << 20,
        total_bytes=4 << 20,
        bytes_s=1 << 20,
        eta_s=eta_s,
        sources=2,
        layers=layers,
    )


def test_what_runs_is_shown_until_it_ends() -> None:
    view = TransfersView()
    view.hear(progressed(1), 0.0)
    view.hear(progressed(2), 0.5)
    view.hear(progressed(3, HALF, None), 0.5)
    assert [one.line for one in view.states(1.0)] == [
        "shed: m.gguf: 50% of 4 MiB, 1 MiB/s from 2 sources, about 2 s to go",
        "shed: m.gguf, layers 0 to 15 and the output head: 75% of 4 MiB, 1 MiB/s from 2 sources, nothing comes",
    ]
    view.hear(PullFinished(node=SHED, root=ROOT, file="m.gguf", path="/m", total_bytes=1), 1.0)
    assert [one.layers for one in view.states(1.0)] == ["layers 0 to 15 and the output head"]
    assert not view.states(0.5 + SILENT_S)


def test_what_failed_is_shown_for_a_while() -> None:
    view = TransfersView()
    view.hear(progressed(1), 0.0)
    failure = Failure(code=FailureCode.NO_SOURCE, message="nobody has it")
    view.hear(PullFailed(node=SHED, root=ROOT, file="m.gguf", failure=failure), 1.0)
    (one,) = view.states(FAILED_S)
    assert one.line == "shed: m.gguf did not come: nobody has it"
    assert not view.states(1.0 + FAILED_S)
