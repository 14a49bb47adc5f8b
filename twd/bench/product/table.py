"""Tables of the product benchmark, in Markdown. Pure."""

from collections.abc import Iterable, Sequence

from twd.bench.product.statistics import (
    PEER,
    Phase,
    Quartiles,
    Results,
    Run,
    best_peer,
    chosen,
    equal_texts,
    first_ten,
    ratios,
    speed_of,
    summarize,
)

TWD, RECALLING = "twd", "twd, recall"
PEER_PLAIN = f"{PEER}, plain"
NOTHING = "-"
SPEED_HEAD = (
    "case", "llama-server plain", "its best", "its best setting", "twd plain", "twd with drafts", "to plain",
    "to its best", "asked again", "with recall", "recall, asked again", "first ten", "equal texts",
)  # fmt: skip
LATENCY_HEAD = (
    "case", "first token, ms: llama-server's best", "twd plain", "twd with drafts",
    "gaps, 95 %, ms: its best", "twd plain", "twd with drafts", "answers, tok/s: twd with drafts",
)  # fmt: skip


def tables(results: Results) -> str:
    """Return the tables of all measurements."""
    cases = list(dict.fromkeys(run.case for run in results.runs))
    about = [f"{name}: {value}" for name, value in {**results.machine, **results.settings}.items()]
    speeds = [_speeds(results.runs, case) for case in cases]
    latencies = [_latencies(results.runs, case) for case in cases]
    parts = ("; ".join(about), _table(SPEED_HEAD, speeds), _table(LATENCY_HEAD, latencies), NOTES)
    return "\n\n".join(parts) + "\n"


NOTES = (
    "Tokens per second as clients get them: of one client after the first token, of several all together. Speeds are "
    "medians of the starts; ratios are of the same start, the least first, then the median and the most. First tokens "
    "and answers: the median and in brackets the quartiles over all answers. First ten: their speed to that of the "
    "same prompts asked again."
)


def _speeds(runs: Sequence[Run], case: str) -> list[str]:
    best = best_peer(runs, case)
    theirs = chosen(runs, case, best, Phase.FIRST) or chosen(runs, case, best, Phase.PLAIN)
    plain, first = chosen(runs, case, TWD, Phase.PLAIN), chosen(runs, case, TWD, Phase.FIRST)
    again = chosen(runs, case, TWD, Phase.REPEAT)
    recalled = [chosen(runs, case, RECALLING, phase) for phase in (Phase.FIRST, Phase.REPEAT)]
    return [
        case,
        _middle(chosen(runs, case, PEER_PLAIN, Phase.PLAIN)),
        _middle(theirs),
        best.removeprefix(f"{PEER}, ") or NOTHING,
        *(_middle(some) for some in (plain, first)),
        _range(ratios(first, plain)),
        _range(ratios(first, theirs)),
        *(_middle(some) for some in (again, *recalled)),
        _range(first_ten(first, again)),
        _equal(first, plain),
    ]


def _latencies(runs: Sequence[Run], case: str) -> list[str]:
    best = best_peer(runs, case)
    theirs = chosen(runs, case, best, Phase.FIRST) or chosen(runs, case, best, Phase.PLAIN)
    columns = (theirs, chosen(runs, case, TWD, Phase.PLAIN), chosen(runs, case, TWD, Phase.FIRST))
    found = [summarize(some) for some in columns]
    gaps = [f"{one.gap_p95_ms:.0f}" if one.gap_p95_ms else NOTHING for one in found]
    return [case, *(_quartiles(one.first_ms) for one in found), *gaps, _quartiles(found[-1].answer_rates)]


def _middle(runs: Sequence[Run]) -> str:
    return f"{Quartiles.of(speed_of(run) for run in runs).middle:.1f}" if runs else NOTHING


def _range(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    if len(values) == 1:
        return f"**{values[0]:.2f}x**"
    return f"**{min(values):.2f}x** ({Quartiles.of(values).middle:.2f}, {max(values):.2f})"


def _quartiles(found: Quartiles) -> str:
    return f"{found.middle:.0f} ({found.low:.0f} to {found.high:.0f})" if found.middle else NOTHING


def _equal(first: Sequence[Run], plain: Sequence[Run]) -> str:
    equal, compared = equal_texts(first, plain)
    return f"{equal}/{compared}" if compared else NOTHING


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
