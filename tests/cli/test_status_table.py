"""`twd status` and `twd trace` show what services call themselves, letter by letter."""

import pytest

from twd.cli import trace
from twd.cli.status import _print
from twd.kit.terminal import show, table
from twd.kit.trace import TraceStep
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.ring import HopFacts
from twd.wire.service import ServiceLease


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    facts = SpeculatorFacts(
        model=ModelId("[/]m"), engine="[bold]", pool=["[/]part"], links=[HopFacts(to="[/]link", rtt_ms=1.5)]
    )
    lease = ServiceLease(
        service="[/]s", instance=InstanceId("i"), node=NodeId("[/]n"), pid=1, version="1", started_ms=1, renewed_ms=1,
        facts=facts,
    )  # fmt: skip
    _print([(lease, 1.0)], {"[/]gone": "[/]why"}, {"api": "[/]here"})
    shown = capsys.readouterr().out
    for name in ("[/]s", "[/]n", "[/]m", "[bold]", "[/]part", "[/]link", "[/]gone", "[/]here"):
        assert name in shown


def test_in_a_pipe_a_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("service", "", "pid")
    rows.add_row("speculator", "it waits for " + "a machine " * 100, "1")
    show(rows)
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["service", "pid"]
    assert row.split() == ["speculator", "it", "waits", "for", *["a", "machine"] * 100, "1"]


def test_whoever_tells_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    trace._print([TraceStep(at_ms=0, after_ms=0, kind="job.started", source="[/]x.n.1", what="[/]y")])
    shown = capsys.readouterr().out
    assert "[/]x" in shown
    assert "[/]y" in shown
