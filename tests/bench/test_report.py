"""From answers to figures."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from twd.bench.client import MeasuredAnswer
from twd.bench.plot import bars, lines
from twd.bench.report import Ceiling, PlainDraftedPair, by_drafter, by_position, ceiling, percentile, summarize
from twd.bench.session import BenchResult
from twd.cli.app import run
from twd.cli.bench.command import bench
from twd.kit.exit_codes import ExitCode
from twd.wire.base import ModelId
from twd.wire.job import DrafterShare, JobStats
from twd.wire.leases.speculator import SpeculatorFacts


def answer(tokens: list[int], ms: float, **stats: object) -> MeasuredAnswer:
    made = JobStats(decode_ms=ms, passes=max(1, len(tokens) // 2), **stats)  # type: ignore[arg-type]
    return MeasuredAnswer("code", tokens, "text", [0.1, 0.2, 0.4], made)


def pair(equal: bool = True) -> PlainDraftedPair:
    drafted = answer(
        [1, 2, 3, 4, 5],
        50.0,
        checked=4,
        taken=3,
        checked_at=[2, 2],
        taken_at=[2, 1],
        drafters=[DrafterShare(drafter="d", checked=4, taken=3)],
    )
    return PlainDraftedPair("code", answer([1, 2, 3, 4, 5 if equal else 6], 100.0), drafted)


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


def test_both_sides_have_medians_and_tails() -> None:
    whole = summarize([pair(), pair()])[-1]
    assert (whole.plain_rate_median, whole.drafted_rate_median) == (40.0, 80.0)
    assert (whole.plain_rate_p95, whole.drafted_rate_p95) == (40.0, 80.0)
    assert (whole.plain_first_ms, whole.plain_first_p95_ms, whole.first_p95_ms) == (100.0, 100.0, 100.0)
    assert whole.plain_gap_p95_ms == 200.0


def test_the_document_tells_how_much_of_the_ceiling_was_reached() -> None:
    away, beside = Ceiling("a", 1.0, 2.0, 0.8, 2.0, 4.0), Ceiling("b", 1.0, 0.0, 0.8, 2.0, 4.0)
    result = BenchResult(ModelId("m"), SpeculatorFacts(), [pair()], [], [away, beside])
    assert [one["reached"] for one in result.document["ceilings"]] == [0.5, 1.0]


def test_files_that_cannot_be_used_are_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "prompts.txt"
    odd.write_bytes(b"\xff\xfe")
    read = CliRunner().invoke(bench, ["--prompts", str(odd)])
    assert (read.exit_code, "cannot be read as UTF-8" in read.output) == (2, True)
    assert run(["bench", "--plot", str(tmp_path / "nowhere" / "x.svg")]) == ExitCode.USAGE
    assert "cannot be written: there is no folder" in capsys.readouterr().err
