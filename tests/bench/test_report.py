"""From answers to figures."""

from twd.bench.client import Answer
from twd.bench.plot import bars, lines
from twd.bench.report import Pair, by_drafter, by_position, ceiling, percentile, summarize
from twd.wire.job import DrafterShare, JobStats


def answer(tokens: list[int], ms: float, **stats: object) -> Answer:
    made = JobStats(decode_ms=ms, passes=max(1, len(tokens) // 2), **stats)  # type: ignore[arg-type]
    return Answer("code", tokens, "text", [0.1, 0.2, 0.4], made)


def pair(equal: bool = True) -> Pair:
    drafted = answer(
        [1, 2, 3, 4, 5],
        50.0,
        checked=4,
        taken=3,
        checked_at=[2, 2],
        taken_at=[2, 1],
        drafters=[DrafterShare(drafter="d", checked=4, taken=3)],
    )
    return Pair("code", answer([1, 2, 3, 4, 5 if equal else 6], 100.0), drafted)


def test_a_pair_knows_its_ratio_and_whether_texts_agree() -> None:
    assert pair().ratio == 2.0
    assert pair().equal
    assert not pair(equal=False).equal


def test_lines_by_kind_and_one_for_all() -> None:
    one, whole = summarize([pair(), pair()])
    assert (one.kind, whole.kind) == ("code", "all")
    assert whole.ratio == 2.0
    assert whole.acceptance == 0.75
    assert whole.equal == 2
    assert whole.tokens_per_pass == 2.5


def test_guesses_are_counted_by_place_and_drafter() -> None:
    assert by_position([pair(), pair()]) == [(4, 4), (4, 2)]
    assert by_drafter([pair(), pair()]) == {"d": (8, 6)}


def test_percentiles_of_nothing_and_of_something() -> None:
    assert percentile([], 0.95) == 0.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_a_ceiling_is_never_below_plain() -> None:
    bad = ceiling("d", lambda rows: 10.0 + rows, 50.0, 5.0, 0.1, 16)
    assert (bad.in_turns, bad.continuous) == (1.0, 1.0)


def test_pictures_are_whole_and_escape_names() -> None:
    drawn = bars("a < b", ["x<y"], [("plain", [1.0]), ("drafted", [2.0])], "tok/s")
    assert drawn.startswith("<svg")
    assert drawn.endswith("</svg>\n")
    assert "a &lt; b" in drawn
    assert "x&lt;y" in drawn
    assert "polyline" in lines("t", [0.1, 0.9], [("a", [1.0, 2.0])], "p", "x")
