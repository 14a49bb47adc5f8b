"""What each stage of a ring is told."""

from twd.ring.trust import RingTrust, ring_nonce
from twd.ring.wiring import wirings
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.ring import StageReady, StateFormat

HOME = InstanceId("home")


def stage(first: int, end: int, *, head: bool = False) -> StageReady:
    return StageReady(
        stage=InstanceId(f"stage-{first}-{end}"),
        node=NodeId("n"),
        model=ModelId("m"),
        file_hash="f",
        first=first,
        end=end,
        layers=8,
        head=head,
        host="127.0.0.1",
        port=4000 + first,
        certificate=f"certificate {first}",
    )


def test_every_stage_knows_its_neighbours_and_nobody_else() -> None:
    stages = [stage(0, 2), stage(2, 5), stage(5, 8, head=True)]
    told = wirings(stages, RingTrust("r", ring_nonce()), HOME, "of home", StateFormat.F32)
    assert [one.index for one in told] == [0, 1, 2]
    assert [one.next_port for one in told] == [4002, 4005, 0]
    assert [one.next_certificate for one in told] == ["certificate 2", "certificate 5", ""]
    assert [one.previous_certificate for one in told] == ["", "certificate 0", "certificate 2"]
    assert {one.home_certificate for one in told} == {"of home"}


def test_without_encryption_no_certificate_travels() -> None:
    told = wirings(
        [stage(0, 2), stage(2, 8, head=True)], RingTrust("r", ring_nonce(), "", False), HOME, "x", StateFormat.F16
    )
    assert not any(one.next_certificate or one.previous_certificate or one.home_certificate for one in told)
    assert {one.states for one in told} == {StateFormat.F16}
