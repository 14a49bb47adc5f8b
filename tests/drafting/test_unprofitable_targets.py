"""What targets said against a drafter."""

from twd.drafting.unprofitable_targets import UnprofitableTargets
from twd.wire.base import InstanceId, ModelId
from twd.wire.draft import DrafterChecked


def said(target: str, advice: str = "") -> DrafterChecked:
    return DrafterChecked(
        drafter=InstanceId("d"),
        target=ModelId(target),
        same_vocab=True,
        same_family=True,
        agreement=0.5,
        compared=20,
        pays=not advice,
        advice=advice,
    )


def test_a_doubt_lasts_until_its_target_says_otherwise() -> None:
    doubts = UnprofitableTargets()
    assert doubts.text == ""
    doubts.hear(said("a", "too slow"))
    doubts.hear(said("b", "too far"))
    assert doubts.text == "too far"
    doubts.hear(said("c"))
    doubts.hear(said("b"))
    assert doubts.text == "too slow"
    doubts.hear(said("a"))
    assert doubts.text == ""


def test_of_many_targets_the_oldest_doubts_go_and_long_ones_are_cut() -> None:
    doubts = UnprofitableTargets()
    for number in range(100):
        doubts.hear(said(f"m{number}", f"{number} " + "x" * 1000))
    assert doubts.text.startswith("99 x")
    assert len(doubts.text) == 200
    for number in range(85, 100):
        doubts.hear(said(f"m{number}"))
    assert doubts.text.startswith("84 "), "sixteen are kept"
    doubts.hear(said("m84"))
    assert doubts.text == ""
