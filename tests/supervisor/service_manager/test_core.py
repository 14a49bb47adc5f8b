"""When an installation can answer, when nobody mends what is wrong, and the words for both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.process.process_table import DONE, ProcessRow, StartPhase
from twd.supervisor.service_manager.core import NO_ANSWER, OK, can_answer, status_words, stuck

READY, LOADING, MISSING, SILENT = StartPhase.READY, StartPhase.LOADING, StartPhase.MISSING, StartPhase.SILENT


def row(name: str, stage: StartPhase = READY, **more: object) -> ProcessRow:
    model = name.partition(".")[2]
    return ProcessRow(name=name, stage=stage, model=model, ready_ms=1 if stage in DONE else 0, **more)  # type: ignore[arg-type]


HOUSE = [row("broker"), row("edge"), row("speculator.big")]


@pytest.mark.parametrize(
    ("rows", "ready", "api", "answers"),
    [
        (HOUSE, True, OK, True),
        (HOUSE, False, OK, False),
        (HOUSE, True, 503, False),
        (HOUSE, True, NO_ANSWER, False),
        ([row("agent")], True, None, True),
        ([row("edge")], True, 503, True),  # no model, no question; it can be given one now
        ([row("edge")], True, NO_ANSWER, False),
        ([row("edge"), row("relay.far", MISSING)], True, 503, False),
        ([row("edge"), row("relay.far", MISSING), row("relay.near")], True, 503, True),
    ],
)
def test_ready_means_that_a_question_can_be_answered(
    rows: list[ProcessRow], ready: bool, api: int | None, answers: bool
) -> None:
    assert can_answer(rows, ready, api) is answers


@pytest.mark.parametrize(
    ("rows", "api", "why"),
    [
        (HOUSE, OK, ""),
        ([*HOUSE[:2], row("speculator.big", LOADING)], 503, ""),  # its supervisor replaces it
        ([row("broker"), row("edge", StartPhase.RESTARTING), row("speculator.big")], NO_ANSWER, ""),
        (HOUSE, NO_ANSWER, "the API does not answer"),
        (HOUSE, 503, "the API says that it cannot answer (status 503)"),
        ([*HOUSE, row("drafter.quick", SILENT)], OK, "drafter.quick cannot be heard any more"),
        ([row("agent", SILENT)], None, "agent cannot be heard any more"),
        ([row("edge"), row("relay.far", MISSING)], 503, ""),
        ([row("edge")], 503, ""),
    ],
)
def test_nobody_mends_what_is_silent_or_does_not_answer(rows: list[ProcessRow], api: int | None, why: str) -> None:
    assert stuck(rows, api) == why


@pytest.mark.parametrize(
    ("rows", "ready", "words"),
    [
        (HOUSE, True, "serves big"),
        ([row("agent")], True, "works"),
        ([row("edge")], True, "works; no model is served"),
        ([*HOUSE, row("drafter.q", MISSING)], True, "serves big; without drafter.q"),
        (
            [*HOUSE[:2], row("speculator.big", LOADING, note="reads 40%")],
            False,
            "starting: speculator.big is loading (reads 40%)",
        ),
        (
            [*HOUSE[:2], row("speculator.big", StartPhase.RESTARTING, restarts=1)],
            True,
            "mending: speculator.big is restarting",
        ),
        (
            [row("speculator.big", StartPhase.FAILED, note="no such file")],
            False,
            "speculator.big cannot start: no such file",
        ),
    ],
)
def test_the_status_is_in_words(rows: list[ProcessRow], ready: bool, words: str) -> None:
    assert status_words(rows, ready) == words


def test_trouble_is_told_first() -> None:
    assert status_words(HOUSE, True, "the API does not answer") == "the API does not answer"


stages = st.sampled_from(StartPhase)
some_rows = st.lists(
    st.builds(row, st.sampled_from(["broker", "edge", "speculator.big", "relay.far", "drafter.q"]), stages), max_size=6
)


@given(some_rows, st.sampled_from([None, OK, NO_ANSWER, 503, 404]))
def test_what_can_answer_is_not_stuck(rows: list[ProcessRow], api: int | None) -> None:
    if can_answer(rows, all(one.stage in (*DONE, MISSING) for one in rows), api):
        assert stuck(rows, api) == ""


@given(some_rows, st.booleans())
def test_a_status_is_one_short_line(rows: list[ProcessRow], ready: bool) -> None:
    words = status_words(rows, ready)
    assert words
    assert "\n" not in words
    assert len(words) < 400
