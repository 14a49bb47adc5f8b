"""What `twd up` draws in a terminal: nothing that matters is cut off, and what is to be copied can be."""

import io

import msgspec
import pytest
from rich.console import Console

from twd.process.process_table import ProcessRow, StartPhase
from twd.supervisor.start_display import LiveView, PlainView, StartSnapshot, closing_lines, draw

LONG = "comparing windows with single steps of a model that has a long name 90%"


def picture(ready_ms: int = 0, note: str = "") -> StartSnapshot:
    rows = [
        ProcessRow(name="broker", stage=StartPhase.READY, pid=12345),
        ProcessRow(
            name="speculator.smollm2-135m",
            stage=StartPhase.READY,
            pid=12346,
            note=LONG,
            model="smollm2-135m",
        ),
    ]
    addresses = {"bus": "nats://127.0.0.1:4222", "api": "http://127.0.0.1:8088"}
    return StartSnapshot(home="/home", pid=1, rows=rows, addresses=addresses, ready_ms=ready_ms, note=note)


def test_only_the_note_gives_way_where_the_terminal_is_narrow() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(draw(picture(note="a word to all")))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[1].split() == ["broker", "ready", "12345"]
    assert lines[2].split()[:3] == ["speculator.smollm2-135m", "ready", "12346"]
    assert lines[2].rstrip().endswith("…")
    assert lines[3:] == ["a word to all"]


def test_what_to_try_is_told_once_and_in_lines_that_can_be_copied(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    view = LiveView()
    view.show(picture())
    view.show(picture(ready_ms=1500))
    view.show(picture(ready_ms=1500, note="ended"))
    view.close()
    said = capsys.readouterr().out
    curl = next(line for line in closing_lines(picture(ready_ms=1500)) if "curl" in line)
    assert len(curl) > 80
    assert said.count(curl) == 1
    assert said.count("ready in 1.5 s") == 1
    assert said.index("ready in") < said.index("broker")


def test_in_a_pipe_each_thing_that_a_start_waits_for_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    moments = [
        (StartPhase.STARTING, ""),
        (StartPhase.LOADING, "waits for its ring: 130 MiB are missing"),
        (StartPhase.LOADING, "reading weights 4%"),
        (StartPhase.LOADING, "waits for its ring: 130 MiB are missing"),
        (StartPhase.LOADING, "reading weights 54%"),
        (StartPhase.LOADING, ""),
        (StartPhase.READY, "exact"),
        (StartPhase.READY, "rewired after 1.5 s"),
        (StartPhase.LOADING, "reading weights 4%"),
    ]
    for stage, note in moments:
        view.show(msgspec.structs.replace(picture(), rows=[ProcessRow(name="speculator.m", stage=stage, note=note)]))
    assert capsys.readouterr().out.splitlines() == [
        "speculator.m: starting",
        "speculator.m: loading (waits for its ring: 130 MiB are missing)",
        "speculator.m: loading (reading weights 4%)",
        "speculator.m: ready (exact)",
        "speculator.m: loading (reading weights 4%)",
    ]
