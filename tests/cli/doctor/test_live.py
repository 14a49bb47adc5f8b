"""What the doctor says of what runs: bus, services, clocks, API, speculation, servers elsewhere."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from twd.cli.doctor import live
from twd.cli.doctor.findings import Severity
from twd.cli.doctor.live import ApiProbe, BusProbe, ServerProbe
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DrafterPace
from twd.wire.leases.machine import AgentFacts, HungProcess
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.model import CostPoint
from twd.wire.service import Health, ServiceLease

NOW_MS = 1_000_000
PACE = DrafterPace(
    drafter=InstanceId("drafter.box.1"), model="tiny", token_ms=5.0, lead_ms=1.0, agreement=0.75, compared=64
)


def lease(service: str = "edge", health: Health = Health.OK, **fields: Any) -> ServiceLease:
    made = ServiceLease(
        service=service,
        instance=InstanceId(f"{service}.box.x"),
        node=NodeId("box"),
        pid=1,
        version="1.2.0",
        started_ms=1,
        renewed_ms=NOW_MS - 1000,
        health=health,
    )
    return msgspec.structs.replace(made, **fields)


SPECULATOR = SpeculatorFacts(
    model=ModelId("m"), exact=True, cost=[CostPoint(width=1, ms=20.0), CostPoint(width=8, ms=40.0)]
)


def speculator(*paces: DrafterPace, ready: bool = True, exact: bool = True) -> ServiceLease:
    facts = msgspec.structs.replace(SPECULATOR, drafters=list(paces), ready=ready, exact=exact)
    return lease("speculator", facts=facts)


def test_bus() -> None:
    assert live.check_bus(None, "", outside=False).verdict is Severity.SKIP
    assert live.check_bus(BusProbe(0.2), "nats://x", outside=False).verdict is Severity.PASS
    assert live.check_bus(BusProbe(30.0), "nats://x", outside=True).verdict is Severity.WARN
    away = live.check_bus(BusProbe(problem="nobody there"), "nats://x", outside=True)
    assert (away.verdict, away.detail) == (Severity.FAIL, "nobody there")
    assert "bus.url" in away.mend


@pytest.mark.parametrize(
    ("given", "verdict", "mend"),
    [
        (lease(), Severity.PASS, ""),
        (lease(health=Health.DRAINING), Severity.PASS, ""),
        (lease("metrics", Health.DEGRADED, note="disk full"), Severity.WARN, "twd logs metrics"),
        (
            lease("speculator", Health.DEGRADED, facts=SpeculatorFacts(ready=False), note="no memory"),
            Severity.FAIL,
            "twd logs speculator",
        ),
        (lease("speculator", Health.STARTING), Severity.WARN, "twd watch model"),
    ],
)
def test_services(given: ServiceLease, verdict: Severity, mend: str) -> None:
    (finding,) = live.check_services([(given, 1.0)], {})
    assert finding.verdict is verdict
    assert finding.mend.startswith(mend)
    assert given.note in finding.detail


def test_services_that_are_not_there() -> None:
    (finding,) = live.check_services([], {})
    assert (finding.verdict, finding.mend) == (Severity.FAIL, "twd up")
    (finding,) = live.check_services([], {"drafter.tiny": ""})
    assert (finding.verdict, finding.mend) == (Severity.FAIL, "twd logs drafter.tiny")


def test_what_the_others_go_on_without_is_something_to_look_at() -> None:
    (finding,) = live.check_services([], {"drafter.tiny": "nobody listens there"})
    assert (finding.verdict, finding.mend) == (Severity.WARN, "twd logs drafter.tiny")
    assert finding.detail == "missing: nobody listens there"
    away = lease("drafter", Health.DEGRADED, facts=DrafterLeaseFacts(ready=False), note="connection refused")
    (finding,) = live.check_services([(away, 1.0)], {})
    assert (finding.verdict, finding.detail) == (Severity.WARN, "missing: connection refused")


def test_what_was_hung_is_told() -> None:
    told = lease("agent", facts=AgentFacts(hung=[HungProcess(process="stage-1", why="it was stopped")]))
    _, finding = live.check_services([(told, 1.0)], {})
    assert (finding.verdict, finding.name, finding.mend) == (Severity.WARN, f"hung on {told.node}", "twd logs stage-1")
    assert "it was stopped" in finding.detail


def test_versions_that_differ() -> None:
    newer = lease(version="1.10.0", node=NodeId("new"))
    *_, finding = live.check_services([(lease(), 1.0), (newer, 1.0)], {})
    assert finding.verdict is Severity.WARN
    assert finding.detail == "box not at 1.10.0"
    assert finding.mend == "pip install --upgrade twd==1.10.0"


def test_clocks() -> None:
    late = lease(node=NodeId("late"), renewed_ms=NOW_MS - 31_000)
    early = lease(node=NodeId("early"), renewed_ms=NOW_MS + 9_000)
    found = live.check_clocks([(lease(), 1.0), (late, 1.0), (early, 1.0)], NOW_MS)
    assert [finding.detail.split(" this")[0] for finding in found] == [
        "the clock of early is 10 s ahead of",
        "the clock of late is 30 s behind",
    ]
    assert live.check_clocks([(lease(), 1.0)], NOW_MS) == []


def test_api() -> None:
    assert live.check_api(None).verdict is Severity.SKIP
    assert live.check_api(ApiProbe("http://x")).verdict is Severity.PASS
    assert live.check_api(ApiProbe("http://x", problem="refused")).mend == "twd logs edge"
    waiting = live.check_api(ApiProbe("http://x", reasons=["m loads", "the bus is away"]))
    assert waiting.verdict is Severity.FAIL
    assert "m loads; the bus is away" in waiting.detail


def test_exactness() -> None:
    assert live.check_speculation([(speculator(), 1.0)])[0].verdict is Severity.PASS
    assert live.check_speculation([(speculator(exact=False), 1.0)])[0].verdict is Severity.WARN
    assert live.check_speculation([(speculator(ready=False), 1.0)]) == []


@pytest.mark.parametrize(
    ("pace", "verdict", "words"),
    [
        (PACE, Severity.PASS, "75% of 64 guesses held"),
        (msgspec.structs.replace(PACE, agreement=0.1), Severity.WARN, "does not pay"),
        (msgspec.structs.replace(PACE, agreement=0.1, compared=5), Severity.PASS, "10% of 5"),
        (msgspec.structs.replace(PACE, token_ms=19.0), Severity.WARN, "19.0 ms a guess against 20.0 ms a token"),
    ],
)
def test_drafters_that_do_not_pay(pace: DrafterPace, verdict: Severity, words: str) -> None:
    _, finding = live.check_speculation([(speculator(pace), 1.0)])
    assert finding.verdict is verdict
    assert words in finding.detail


def test_a_drafter_says_what_its_target_told_it() -> None:
    told = lease("drafter", facts=DrafterLeaseFacts(model=ModelId("tiny"), doubt="speaks other tokens"))
    (finding,) = live.check_speculation([(told, 1.0)])
    assert "speaks other tokens" in finding.detail
    content = lease("drafter", note="ollama 'tiny' drafts, about 5 ms a token", facts=DrafterLeaseFacts())
    assert live.check_speculation([(content, 1.0)]) == []


def test_facts_that_this_version_cannot_read_are_told() -> None:
    odd = lease("speculator", unread="facts left out: sessions: Expected `int`, got `str`", version="9.1.0")
    _, finding = live.check_services([(odd, 1.0)], {})
    assert (finding.verdict, finding.name) == (Severity.WARN, "speculator on box")
    assert "sessions: Expected `int`" in finding.detail
    assert "version 9.1.0" in finding.detail


def test_servers_elsewhere() -> None:
    look = ServerProbe("backends.x", "http://x", use="passed through", answer_ms=5.0, mend="curl")
    assert live.check_server(look).verdict is Severity.PASS
    assert live.check_server(replace(look, answer_ms=5000.0)).verdict is Severity.WARN
    assert live.check_server(replace(look, problem="away")).verdict is Severity.FAIL
    assert live.check_server(replace(look, problem="away", needed=False)).verdict is Severity.WARN
