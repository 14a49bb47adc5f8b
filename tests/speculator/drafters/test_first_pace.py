"""The pace of a drafter before its first drafts, and after them."""

import pytest

from tests.sim.doubles import VOCAB
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.speculator.drafters.registry import taken_for
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DrafterAttached
from twd.wire.model import ModelFacts

STEP_MS = 24.0


def facts(size_bytes: int) -> ModelFacts:
    return ModelFacts(
        model=ModelId("big"),
        file="big.gguf",
        architecture="llama",
        quantization="F32",
        parameters=1,
        size_bytes=size_bytes,
        ctx_size=128,
        parallel=1,
        vocab=VOCAB,
    )


def attached(token_ms: float, size_bytes: int) -> DrafterAttached:
    return DrafterAttached(
        drafter=InstanceId("d"),
        node=NodeId("here"),
        model=ModelId("small"),
        vocab=VOCAB,
        token_ms=token_ms,
        size_bytes=size_bytes,
    )


@pytest.mark.parametrize(
    ("told_ms", "draft_bytes", "target_bytes", "expected"),
    [
        (34.0, 100, 400, 6.0),  # it measured itself while the target loaded
        (3.0, 100, 400, 3.0),
        (34.0, 0, 400, 34.0),
        (34.0, 100, 0, 34.0),
        (0.0, 100, 400, 5.0),
    ],
)
def test_on_the_targets_cores_sizes_bound_the_first_pace(
    told_ms: float, draft_bytes: int, target_bytes: int, expected: float
) -> None:
    event = attached(told_ms, draft_bytes)
    assert taken_for(event, facts(target_bytes), beside=True, step_ms=STEP_MS).token_ms == expected


def test_elsewhere_the_target_tells_nothing_of_a_drafters_pace() -> None:
    assert taken_for(attached(34.0, 100), facts(400), beside=False, step_ms=STEP_MS).token_ms == 34.0


def test_the_first_drafts_tell_the_pace_alone_and_later_ones_smooth_it() -> None:
    drafter = AttachedDrafter(InstanceId("d"), NodeId("here"), beside=True, token_ms=6.0)
    drafter.observe_pace(0, 100.0)
    assert drafter.token_ms == 6.0, "no draft, no pace"
    drafter.observe_pace(4, 160.0)
    assert drafter.token_ms == 40.0
    drafter.observe_pace(1, 80.0)
    assert 40.0 < drafter.token_ms < 80.0


def test_a_new_share_of_the_cores_makes_the_next_drafts_the_first() -> None:
    drafter = AttachedDrafter(InstanceId("d"), NodeId("here"), beside=True, token_ms=6.0)
    drafter.observe_pace(1, 40.0)
    drafter.begins_anew(AttachedDrafter(InstanceId("d"), NodeId("here"), beside=True, token_ms=7.0, plan=1))
    assert drafter.token_ms == 7.0
    drafter.observe_pace(1, 9.0)
    assert drafter.token_ms == 9.0
