"""A counter that one process raises and another one reads."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.waiting import until
from twd.process import heartbeat
from twd.process.heartbeat import VARIABLE, Beats, Heartbeat, beating
from twd.process.hung_log import KEPT, HungLog, hung_words


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_beat_is_seen(monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    beats = Beats()
    environment = {VARIABLE: beats.path, "OTHER": "1"}
    heart = Heartbeat.inherited(environment)
    assert heart is not None
    assert environment == {"OTHER": "1"}, "its own children do not inherit it"
    assert beats.read() == 0
    heart.beat()
    heart.beat()
    assert beats.read() == 2
    heart.close()
    path = Path(beats.path)
    beats.close()
    assert not path.exists()


def test_where_nobody_reads_it_there_is_none() -> None:
    assert Heartbeat.inherited({}) is None


def test_a_counter_that_cannot_be_opened_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    assert Heartbeat.inherited({VARIABLE: "/nowhere/at/all"}) is None
    assert "cannot show that it lives" in caplog.text


async def test_it_beats_while_the_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.001)
    beats = Beats()
    before = asyncio.all_tasks()
    async with beating(Heartbeat.inherited({VARIABLE: beats.path})):
        await until(lambda: beats.read() > 3, "it beats")
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before, "nothing is left that could beat"
    beats.close()


async def test_without_a_counter_nothing_beats() -> None:
    before = asyncio.all_tasks()
    async with beating(None):
        assert asyncio.all_tasks() == before


def test_what_was_hung_is_remembered_for_those_who_ask() -> None:
    log = HungLog()
    log.note("edge", "", 0)
    assert log.known == []
    log.note("edge", "it was stopped", 0)
    log.note("edge", "it was stopped", 1000)
    (told,) = log.known
    assert hung_words(told).startswith("edge: it was stopped (2 times, the last one at ")
    for number in range(20):
        log.note(f"p{number}", "it was stopped", 0)
    assert len(log.known) == KEPT
    assert log.known[-1].process == "p19"
