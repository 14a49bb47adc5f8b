"""Which stages make a ring, and what each is told of its place."""

from collections.abc import Sequence

from twd.ring.trust import Trust
from twd.wire.base import InstanceId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import RingWired, StageReady, StateFormat


def in_order(stages: Sequence[StageReady]) -> list[StageReady]:
    """Those of the stages that make the whole model, in ring order; raises TwdError where layers are missing.

    Of several copies of a slice the first one named is taken.
    """
    ordered: list[StageReady] = []
    end = 0
    while not (ordered and ordered[-1].head):
        found = next((one for one in stages if _goes_on(one, ordered, end)), None)
        if found is None:
            have = ", ".join(f"{one.first}-{one.end}{'+head' if one.head else ''}" for one in stages) or "none"
            raise TwdError(FailureCode.NOBODY_HOME, f"no stage goes on at layer {end}; there are: {have}")
        ordered.append(found)
        end = found.end
    return ordered


def _goes_on(one: StageReady, ordered: Sequence[StageReady], end: int) -> bool:
    if not ordered:
        return one.first == 0
    same = (one.file_hash, one.n_embd) == (ordered[0].file_hash, ordered[0].n_embd)
    moves = one.end > end or (one.head and one.end == one.layers)
    return one.first == end and same and moves and one not in ordered


def wirings(
    stages: Sequence[StageReady],
    trust: Trust,
    home: InstanceId,
    home_certificate: str,
    states: StateFormat,
) -> list[RingWired]:
    """What each stage of a ring is told, in ring order."""
    return [_wiring(stages, index, trust, home, home_certificate, states) for index in range(len(stages))]


def _wiring(
    stages: Sequence[StageReady],
    index: int,
    trust: Trust,
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
