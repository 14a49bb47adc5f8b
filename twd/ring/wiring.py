"""Builds the messages that tell each stage its place in a ring."""

from collections.abc import Sequence

from twd.ring.trust import RingTrust
from twd.wire.base import InstanceId
from twd.wire.ring import RingWired, StageReady, StateFormat


def of_other_files(stages: Sequence[StageReady], file_hash: str) -> list[StageReady]:
    """Return the stages whose slice is of another file than the served model."""
    return [stage for stage in stages if stage.file_hash != file_hash]


def wirings(
    stages: Sequence[StageReady],
    trust: RingTrust,
    home: InstanceId,
    home_certificate: str,
    states: StateFormat,
) -> list[RingWired]:
    """Return the wiring of each stage, in ring order."""
    return [_wiring(stages, index, trust, home, home_certificate, states) for index in range(len(stages))]


def _wiring(
    stages: Sequence[StageReady],
    index: int,
    trust: RingTrust,
    home: InstanceId,
    home_certificate: str,
    states: StateFormat,
) -> RingWired:
    stage = stages[index]
    before = stages[index - 1] if index else None
    after = stages[index + 1] if index + 1 < len(stages) else None
    return RingWired(
        ring=trust.ring,
        stage=stage.stage,
        home=home,
        model=stage.model,
        file_hash=stage.file_hash,
        index=index,
        count=len(stages),
        first=stage.first,
        end=stage.end,
        nonce=trust.nonce,
        next_host=after.host if after else "",
        next_port=after.port if after else 0,
        next_stage=after.stage if after else InstanceId(""),
        next_certificate=after.certificate if after and trust.encrypted else "",
        home_certificate=home_certificate if trust.encrypted else "",
        previous_certificate=before.certificate if before and trust.encrypted else "",
        encrypted=trust.encrypted,
        states=states,
    )
