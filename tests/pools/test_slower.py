"""A pool that is slower than planned names the likely cause, and a command against it."""

import pytest

from twd.pools.slower import slower_because
from twd.pools.state import PoolState, StageState, with_warnings


def stage(node: str, ms: float, predicted_ms: float = 5.0, rtt_ms: float = 0.0) -> StageState:
    return StageState(node=node, first=0, end=15, ms=ms, predicted_ms=predicted_ms, to="next", rtt_ms=rtt_ms)


def pool(token_ms: float, *stages: StageState) -> PoolState:
    return PoolState(
        model="m", engine="ring", home="desk", state="ready", stages=list(stages), predicted_ms=20.0, token_ms=token_ms
    )


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        (pool(40.0, stage("a", 5.0), stage("b", 22.0)), "likely b (0-14), which computes 22.0 ms where 5.0"),
        (pool(40.0, stage("a", 5.0), stage("b", 22.0)), "`twd tune m --measure`"),
        (pool(40.0, stage("a", 5.0, rtt_ms=30.0), stage("b", 6.0)), "a to next, 30.0 ms there and back"),
        (pool(40.0, stage("a", 5.0), stage("b", 5.0)), "the ways between them: `twd plan m`"),
        (pool(40.0, stage("a", 0.0)), "`twd plan m`"),
    ],
)
def test_the_cause_and_the_command_are_named(slow: PoolState, words: str) -> None:
    assert words in slower_because(slow)
    (warning,) = (text for text in with_warnings(slow, []).warnings if text.startswith("slower than planned"))
    assert words in warning


@pytest.mark.parametrize("token_ms", [0.0, 19.0, 20.0])
def test_one_that_is_not_slower_has_no_cause(token_ms: float) -> None:
    assert slower_because(pool(token_ms, stage("a", 9.0))) == ""
