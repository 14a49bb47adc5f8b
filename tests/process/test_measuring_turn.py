"""Engines of one computer measure alone, and nobody waits for ever."""

import os
from pathlib import Path

from twd.process import platform
from twd.process.measuring_turn import WAIT_S, MeasuringTurns


class Waits:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def turns_in(folder: Path, waits: Waits | None = None) -> MeasuringTurns:
    waits = waits or Waits()
    return MeasuringTurns(folder, waits.clock, waits.pause)


def test_several_load_at_once(tmp_path: Path) -> None:
    waits = Waits()
    with turns_in(tmp_path, waits).loading(), turns_in(tmp_path, waits).loading():
        assert waits.now == 0.0


def test_who_measures_waits_for_those_who_load(tmp_path: Path) -> None:
    waits = Waits()
    with turns_in(tmp_path).loading(), turns_in(tmp_path, waits).measuring() as undisturbed:
        assert not undisturbed
        assert waits.now >= WAIT_S
    with turns_in(tmp_path, waits).measuring() as undisturbed:
        assert undisturbed


def test_who_loads_waits_for_who_measures_and_then_begins_all_the_same(tmp_path: Path) -> None:
    waits = Waits()
    with turns_in(tmp_path).measuring() as undisturbed, turns_in(tmp_path, waits).loading():
        assert undisturbed
        assert waits.now >= WAIT_S


def test_the_turn_comes_as_soon_as_the_other_one_ends(tmp_path: Path) -> None:
    held = os.open(tmp_path / "measuring.lock", os.O_RDWR | os.O_CREAT)
    assert platform.try_lock(held)
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            os.close(held)

    with MeasuringTurns(tmp_path, lambda: 0.0, pause).measuring() as undisturbed:
        assert undisturbed
    assert len(paused) == 3


def test_without_a_folder_everybody_measures_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with turns_in(tmp_path / "file").measuring() as undisturbed:
        assert undisturbed
