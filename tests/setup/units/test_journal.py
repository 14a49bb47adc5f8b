"""The journal of a service, in lines as our own logs have them."""

import json
from pathlib import Path

from tests.setup.units.machine import PlayedSystemd, machine_at
from twd.cli.logs import readable
from twd.setup.units.journal import Journal, journal_of, line_of
from twd.setup.units.plan import FULL, UnitPlan, systemd_places
from twd.setup.units.systemd_unit import systemd_unit

STARTED = {
    "__CURSOR": "c1",
    "__REALTIME_TIMESTAMP": "1700000000123456",
    "PRIORITY": "6",
    "SYSLOG_IDENTIFIER": "systemd",
    "MESSAGE": "Started twd.",
}


def test_an_entry_reads_like_any_other_line() -> None:
    assert "systemd: Started twd." in readable(line_of(STARTED))
    assert "error" in readable(line_of({**STARTED, "PRIORITY": "3"}))


def test_messages_that_are_no_text_are_read_too() -> None:
    assert json.loads(line_of({"MESSAGE": [104, 105, 255, 999, "x"]}))["text"] == "hi\ufffd"
    assert json.loads(line_of({"MESSAGE": None, "PRIORITY": "junk"}))["text"] == ""


def test_news_go_on_where_the_last_lines_ended(tmp_path: Path) -> None:
    asked: list[str] = []

    class Programs(PlayedSystemd):
        def run(self, argv, user=""):  # type: ignore[no-untyped-def]
            asked.append(" ".join(argv))
            return super().run(argv, user)

    programs = Programs(journal="\n".join([json.dumps(STARTED), "junk", json.dumps({**STARTED, "__CURSOR": "c2"})]))
    journal = Journal(machine_at(tmp_path, programs), True, "twd.service")
    assert len(journal.last(1)) == 1
    assert len(journal.news()) == 2
    assert "--lines 1" in asked[0]
    assert "--after-cursor=c2" in asked[1]


def test_it_is_found_by_the_state_folder(tmp_path: Path) -> None:
    machine = machine_at(tmp_path, PlayedSystemd())
    unit = systemd_places(FULL, False, machine.home, machine.root).unit
    unit.parent.mkdir(parents=True)
    unit.write_text(systemd_unit(UnitPlan(FULL, False, "/bin/true", ("up",), (), "/data/100%")))
    assert journal_of(machine, "/data/100%") is not None
    assert journal_of(machine, "/data/other") is None


def test_a_journal_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    programs = PlayedSystemd(fails={"journalctl": "no permission"})
    assert Journal(machine_at(tmp_path, programs), True, "twd.service").last(5) == []
