"""Which stages make a ring, and what each is told."""

import pytest

from twd.ring.trust import Trust, ring_nonce
from twd.ring.wiring import in_order, wirings
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.failures import TwdError
from twd.wire.ring import StageReady, StateFormat

HOME = InstanceId("home")


def stage(first: int, end: int, *, head: bool = False, file: str = "f", name: str = "") -> StageReady:
    return StageReady(
        stage=InstanceId(name or f"stage-{first}-{end}"),
        node=NodeId("n"),
        model=ModelId("m"),
        file_hash=file,
        first=first,
        end=end,
        layers=8,
        head=head,
        host="127.0.0.1",
        port=4000 + first,
        certificate=f"certificate {first}",
    )


def test_stages_are_put_in_order_and_spares_left_out() -> None:
    given = [stage(5, 8, head=True), stage(0, 2), stage(2, 5), stage(2, 5, name="spare")]
    assert [one.first for one in in_order(given)] == [0, 2, 5]
    assert in_order(given)[1].stage == "stage-2-5"


def test_another_cut_that_is_not_whole_is_no_dead_end() -> None:
    given = [stage(0, 4), stage(0, 3), stage(3, 8, head=True)]
    assert [one.end for one in in_order(given)] == [3, 8]


def test_the_head_may_be_a_stage_of_its_own() -> None:
    given = [stage(0, 8), stage(8, 8, head=True)]
    assert [one.head for one in in_order(given)] == [False, True]


@pytest.mark.parametrize(
    "given",
    [
        [],
        [stage(0, 4)],
        [stage(2, 8, head=True)],
        [stage(0, 4), stage(5, 8, head=True)],
        [stage(0, 4), stage(4, 8, head=True, file="other")],
        [stage(0, 5), stage(4, 8, head=True)],
    ],
)
def test_what_does_not_make_a_model_is_no_ring(given: list[StageReady]) -> None:
    with pytest.raises(TwdError, match="do not make a whole model"):
        in_order(given)


def test_every_stage_knows_its_neighbours_and_nobody_else() -> None:
    stages = [stage(0, 2), stage(2, 5), stage(5, 8, head=True)]
    told = wirings(stages, Trust("r", ring_nonce()), HOME, "of home", StateFormat.F32)
    assert [one.index for one in told] == [0, 1, 2]
    assert [one.next_port for one in told] == [4002, 4005, 0]
    assert [one.next_certificate for one in told] == ["certificate 2", "certificate 5", ""]
    assert [one.previous_certificate for one in told] == ["", "certificate 0", "certificate 2"]
    assert {one.home_certificate for one in told} == {"of home"}


def test_without_encryption_no_certificate_travels() -> None:
    told = wirings(
        [stage(0, 2), stage(2, 8, head=True)], Trust("r", ring_nonce(), "", False), HOME, "x", StateFormat.F16
    )
    assert not any(one.next_certificate or one.previous_certificate or one.home_certificate for one in told)
    assert {one.states for one in told} == {StateFormat.F16}
