"""`twd watch` listens to what it should, and only that."""

import re

import msgspec
import pytest

from tests.signed import signed
from twd.bus.base import BusMessage
from twd.cli.watch import _line, parse_filter, passes, patterns_for
from twd.kit.errors import CommandError
from twd.wire.base import InstanceId, NodeId
from twd.wire.codec import encode
from twd.wire.routes import EVERYTHING, ROUTES, Delivery, Route, subject_of
from twd.wire.service import ServiceStopped


def test_everything_is_every_broadcast_and_no_request() -> None:
    patterns = patterns_for(EVERYTHING)
    assert set(patterns) == {route.pattern for route in ROUTES if route.delivery is Delivery.BROADCAST}
    assert not any(pattern.startswith("twd.v1.job.submitted") for pattern in patterns)


def test_a_part_is_only_its_events() -> None:
    assert "twd.v1.job.started.*.*.*.*.*" in patterns_for("twd.v1.job.>")
    assert not any(pattern.startswith("twd.v1.session") for pattern in patterns_for("twd.v1.job.>"))
    assert patterns_for("twd.v1.*.finished.>") == ["twd.v1.job.finished.*.*.*.*.*", "twd.v1.pull.finished.*.*.*"]


def test_one_subject_is_taken_as_it_stands() -> None:
    assert patterns_for("twd.v1.tokens.accepted.job-1") == ["twd.v1.tokens.accepted.job-1"]
    assert patterns_for("twd.v1.job.submitted.*") == ["twd.v1.job.submitted.*"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: str(route.tag))
def test_a_tag_is_all_its_subjects(route: Route) -> None:
    assert patterns_for(route.tag) == [route.pattern]


def test_a_stamp_that_is_no_time_is_shown_as_none() -> None:
    event = ServiceStopped(service="edge", node=NodeId("n"), at_ms=2**62, source=InstanceId("edge.n.x"))
    shown = _line(BusMessage(subject_of(event), encode(event)))
    assert shown.startswith("no time ")
    assert "service.stopped" in shown


def test_nonsense_is_refused() -> None:
    with pytest.raises(CommandError, match=r"no message travels.*; there are answer, change, draft, .*job"):
        patterns_for("twd.v1.nonsense.>")


def test_filters_compare_values_inside_too() -> None:
    data = b'{"model":"llama","stats":{"passes":3},"facts":{"model":"x"}}'
    assert passes(data, [parse_filter("model=llama"), parse_filter("stats.passes=3")])
    assert not passes(data, [parse_filter("model=qwen")])
    assert not passes(data, [parse_filter("nothing.there=1")])
    assert not passes(b"{", [parse_filter("model=llama")])
    assert passes(b"{", [])
    with pytest.raises(CommandError, match="FIELD=VALUE"):
        parse_filter("model")


def test_a_terminal_obeys_nothing_that_a_machine_tells() -> None:
    event = signed(ServiceStopped(service="edge\x1b[2J\x9b", node=NodeId("n"), reason="\u202e", at_ms=1))
    forged = msgspec.structs.replace(event, node=NodeId("m\u202e"))
    for heard, told in ((event, "service.stopped"), (forged, "its node is m")):
        line = _line(BusMessage(subject_of(event), encode(heard)))
        assert told in line
        assert re.sub(r"\x1b\[\d*m", "", line).isprintable()
    assert _line(BusMessage("twd.v1.\x1b[2J", b"\x1b[2J")).replace("\x1b[33m", "").replace("\x1b[0m", "").isprintable()
