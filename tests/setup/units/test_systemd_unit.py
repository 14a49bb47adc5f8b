"""The unit of systemd: its own tools have nothing to say against it, whatever stands in its paths."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.kit.errors import CommandError
from twd.setup.units.plan import AGENT, FULL, UnitPlan
from twd.setup.units.systemd_unit import quoted, systemd_unit, word

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd's tools are not here")
EXPOSURE_MAX = 2.5


def plan(program: str = "/bin/true", **more: object) -> UnitPlan:
    return replace(
        UnitPlan(FULL, True, program, ("up",), ("service", "reload"), "/var/lib/twd"),
        **more,  # type: ignore[arg-type]
    )


PLANS = {
    "full": plan(),
    "cards": plan(cards=True, groups=("video", "render")),
    "agent": plan(name=AGENT, arguments=("up", "agent")),
    "elsewhere": plan(home="/data/twd state%", writes=("/data/mo dels%",), reads_homes=True),
    "secrets": plan(credentials={"edge.token": "/etc/twd/credentials/edge.token"}),
    "settings": plan(environment={"TWD_EDGE_PORT": "9", "TWD_NODE": 'a "b" %c \\ $d'}),
    "arguments": plan(arguments=("-c", '/etc/a %b/$HOME "q"\\/twd.yaml', "up")),
    "user": plan(system=False, home="/home/me/.twd"),
}


def analyze(folder: Path, plan: UnitPlan, *command: str) -> "subprocess.CompletedProcess[str]":
    unit = folder / f"{plan.name}.service"
    unit.write_text(systemd_unit(plan))
    return subprocess.run(
        ["systemd-analyze", *command, str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SYSTEMD_COLORS": "0"},
    )


@needs_systemd
@pytest.mark.parametrize("name", PLANS)
def test_systemd_has_nothing_to_say_against_it(tmp_path: Path, name: str) -> None:
    done = analyze(tmp_path, PLANS[name], "verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_a_program_in_a_folder_with_an_odd_name_is_found(tmp_path: Path) -> None:
    program = tmp_path / "a b%h$x" / "twd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    done = analyze(tmp_path, plan(str(program)), "verify")
    assert "is not executable" in done.stderr  # so it looked for it under its whole name
    program.chmod(0o755)
    done = analyze(tmp_path, plan(str(program)), "verify")
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", ["full", "cards", "agent", "elsewhere"])
def test_it_may_do_little(tmp_path: Path, name: str) -> None:
    done = analyze(tmp_path, PLANS[name], "security", "--offline=yes")
    exposure = float(done.stdout.rsplit(":", 1)[1].split()[0])
    assert exposure <= EXPOSURE_MAX


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (plan(program="/opt/a'b/twd"), "quotes"),
        (plan(home="/data/a\nb"), "control character"),
        (plan(arguments=("-c", "/a\x7fb", "up")), "control character"),
        (plan(writes=("/a\\b",)), "backslash"),
    ],
)
def test_what_no_unit_can_hold_is_refused(wrong: UnitPlan, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        systemd_unit(wrong)


def test_cards_and_homes_are_open_only_where_they_are_needed() -> None:
    assert "PrivateDevices=yes" in systemd_unit(plan())
    cards = systemd_unit(PLANS["cards"])
    assert "PrivateDevices" not in cards
    assert "DeviceAllow=char-nvidia* rw" in cards
    assert "SupplementaryGroups=video render" in cards
    assert "ProtectHome=yes" in systemd_unit(plan())
    assert "ProtectHome=read-only" in systemd_unit(PLANS["elsewhere"])


def test_a_users_unit_asks_for_nothing_that_only_root_can_do() -> None:
    text = systemd_unit(PLANS["user"])
    for name in ("User=", "ProtectSystem=", "DevicePolicy=", "CapabilityBoundingSet=", "StateDirectory="):
        assert name not in text
    assert "WantedBy=default.target" in text


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126))


@given(printable)
def test_a_word_is_read_back_as_it_was(text: str) -> None:
    written = word(text).replace("$$", "$").replace("%%", "%")
    if written.startswith('"'):
        assert written.endswith('"')
        written = written[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    assert written == text


@given(printable)
def test_no_percent_stands_alone(text: str) -> None:
    assert "%" not in quoted(text).replace("%%", "")
