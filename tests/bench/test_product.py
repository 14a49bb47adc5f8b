"""Figures of the product benchmark: what counts is of the same start, the least of all, and never a repeat."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bench.product.http_client import Reply
from twd.bench.product.statistics import (
    Phase,
    Quartiles,
    Results,
    Run,
    best_peer,
    equal_texts,
    first_ten,
    rate_of,
    ratios,
    speed_of,
    summarize,
)
from twd.bench.product.table import NOTHING, PEER_PLAIN, TWD, tables
from twd.bench.prompts import PROMPTS

OWN_PROMPTS = Path(__file__).parents[2] / "contrib" / "benchmarks" / "product" / "prompts.jsonl"


def reply(name: str, rate: float, tokens: int = 11, first_ms: float = 20.0, text: str = "a") -> Reply:
    """An answer whose tokens came one by one at this rate."""
    arrivals = [first_ms + 1000 * number / rate for number in range(tokens)]
    return Reply(name, tokens, arrivals, text)


def run(contestant: str, start: int, rates: list[float], phase: Phase = Phase.FIRST, clients: int = 1) -> Run:
    replies = [reply(f"q{number}", rate) for number, rate in enumerate(rates)]
    return Run("ring", contestant, start, phase, clients, 2.0, replies)


def test_a_rate_counts_what_came_after_the_first_token() -> None:
    assert rate_of([reply("a", 50.0)]) == pytest.approx(50.0)
    assert rate_of([reply("a", 50.0), reply("b", 25.0)]) == pytest.approx(100 / 3), "by time, not by answer"
    assert rate_of([Reply("nothing came")]) == 0.0


def test_several_clients_count_together() -> None:
    alone, many = run(TWD, 0, [50.0, 50.0]), run(TWD, 0, [50.0, 50.0], clients=4)
    assert speed_of(alone) == pytest.approx(50.0)
    assert speed_of(many) == pytest.approx(11.0), "22 tokens in 2 seconds"


def test_ratios_are_of_the_same_start() -> None:
    ours = [run(TWD, 0, [60.0]), run(TWD, 1, [30.0]), run(TWD, 2, [10.0])]
    theirs = [run(PEER_PLAIN, 1, [15.0]), run(PEER_PLAIN, 0, [20.0])]
    assert ratios(ours, theirs) == pytest.approx([3.0, 2.0])


def test_the_best_setting_is_that_of_the_median_start() -> None:
    runs = [run("llama-server, a", start, [rate]) for start, rate in enumerate((90.0, 10.0, 10.0))]
    runs += [run("llama-server, b", start, [20.0]) for start in range(3)]
    assert best_peer([*runs, run(TWD, 0, [99.0])], "ring") == "llama-server, b"
    assert best_peer(runs, "another case") == ""


def test_the_first_ten_are_held_against_the_same_prompts_asked_again() -> None:
    first = [run(TWD, 0, [10.0] * 10 + [40.0] * 5)]
    again = [run(TWD, 0, [20.0] * 10 + [40.0] * 5, Phase.REPEAT)]
    assert first_ten(first, again) == pytest.approx([0.5])


def test_texts_are_compared_prompt_by_prompt() -> None:
    ours, others = run(TWD, 0, [1.0, 1.0]), run(TWD, 0, [1.0, 1.0], Phase.PLAIN)
    others.replies[1].text_hash = "b"
    assert equal_texts([ours], [others]) == (1, 2)
    assert equal_texts([ours], [run(TWD, 1, [1.0], Phase.PLAIN)]) == (0, 0)


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=50))
def test_quartiles_are_in_order_and_within_the_values(values: list[float]) -> None:
    found = Quartiles.of(values)
    assert min(values) <= found.low <= found.middle <= found.high <= max(values)


def test_quartiles_of_nothing_are_zeros() -> None:
    assert Quartiles.of([]) == Quartiles()
    assert summarize([]).rate == 0.0


def test_the_table_tells_the_least_ratio_first_and_leaves_out_what_was_not_measured() -> None:
    runs = [run(TWD, start, [rate]) for start, rate in enumerate((40.0, 60.0))]
    runs += [run(TWD, start, [20.0], Phase.PLAIN) for start in range(2)]
    text = tables(Results({"machine": "two cores"}, {}, runs))
    row = next(line for line in text.splitlines() if line.startswith("| ring"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert text.startswith("machine: two cores")
    assert cells[1:4] == [NOTHING] * 3
    assert cells[4:7] == ["20.0", "50.0", "**2.00x** (2.50, 3.00)"]
    assert cells[-1] == "2/2"


def test_what_was_measured_is_known_by_case_contestant_and_start() -> None:
    results = Results(runs=[run(TWD, 0, [1.0])])
    assert results.has("ring", TWD, 0)
    assert not results.has("ring", TWD, 1)


def test_its_own_prompts_are_of_all_kinds_and_used_nowhere_else() -> None:
    lines = [json.loads(line) for line in OWN_PROMPTS.read_text("utf-8").splitlines()]
    asked = [line.get("prompt") or line["messages"][-1]["content"] for line in lines]
    assert len(set(asked)) == 60
    assert set(Counter(line["kind"] for line in lines).values()) == {6}
    assert not set(asked) & {prompt.messages[-1].content for prompt in PROMPTS}
