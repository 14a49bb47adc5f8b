"""Facts of leases: what one version writes, its neighbours read; what makes no sense is left out, with a reason."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DrafterPace
from twd.wire.leases.base import CoreFacts, LeaseFacts, OtherFacts, WorkerFacts
from twd.wire.leases.reading import FACTS_OF, read_facts, shown_facts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import DrafterLeaseFacts, StageFacts
from twd.wire.model import CostPoint
from twd.wire.placement import Way
from twd.wire.service import ServiceLease, read_lease

PACE = DrafterPace(drafter=InstanceId("d"), model="tiny", token_ms=5.0, lead_ms=1.0, agreement=0.5, compared=9)
SPECULATOR = SpeculatorFacts(
    model=ModelId("m"), sessions=2, exact=True, drafters=[PACE], cost=[CostPoint(width=1, ms=12.5)], engine="ring",
    ways=[Way(node=NodeId("a"), rtt_ms=2.0)], core_share=CoreFacts(threads=2, beside=["drafter tiny"]),
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = {service: [field.encode_name for field in msgspec.structs.fields(kind)] for service, kind in FACTS_OF.items()}
HOSTILE = st.sampled_from(list(FACTS_OF)).flatmap(
    lambda service: st.tuples(
        st.just(service), st.dictionaries(st.sampled_from(NAMES[service]) | st.text(max_size=4), JSON, max_size=6)
    )
)


def written(service: str, facts: LeaseFacts, **fields: Any) -> bytes:
    lease = ServiceLease(
        service=service, instance=InstanceId(f"{service}.n.i"), node=NodeId("n"), pid=1, version="1", started_ms=1,
        renewed_ms=1, facts=facts, **fields,
    )  # fmt: skip
    return msgspec.json.encode(lease)


def spoiled(service: str, facts: LeaseFacts, **told: object) -> ServiceLease:
    """A lease in which somebody wrote other things under some names."""
    whole = json.loads(written(service, facts))
    whole["facts"] |= told
    lease = read_lease(json.dumps(whole).encode(), f"{service}.n.i")
    assert lease is not None
    return lease


@pytest.mark.parametrize("service", FACTS_OF)
def test_every_service_reads_its_own_facts_and_each_of_them_may_be_missing(service: str) -> None:
    kind = FACTS_OF[service]
    assert read_facts(service, b"{}") == (kind(), "")
    lease = read_lease(written(service, kind(ready=False)), f"{service}.n.i")
    assert lease is not None
    assert lease.told(kind) == kind(ready=False)
    assert lease.unread == ""


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = read_lease(written("speculator", SPECULATOR), "speculator.n.i")
    assert lease is not None
    assert lease.told(SpeculatorFacts) == SPECULATOR
    assert lease.told(StageFacts) is None
    assert (lease.model, lease.unread) == ("m", "")
    assert (SPECULATOR.single_step_ms, SPECULATOR.step_cost_ms(8), SPECULATOR.served) == (12.5, 0.0, "m")
    assert msgspec.structs.replace(SPECULATOR, place="m#2").served == "m#2"


def test_what_a_later_version_adds_is_passed_over() -> None:
    lease = spoiled("speculator", SPECULATOR, of_a_later_version={"deep": [1, {"er": None}]})
    assert lease.told(SpeculatorFacts) == SPECULATOR
    assert lease.unread == ""


@pytest.mark.parametrize("number", [-1, 2**63, 10**400, "2", None, [2]])
def test_a_fact_that_makes_no_sense_is_left_out_with_a_reason_and_the_others_stay(number: object) -> None:
    lease = spoiled("speculator", SPECULATOR, sessions=number)
    assert lease.facts == msgspec.structs.replace(SPECULATOR, sessions=0)
    assert lease.unread.startswith("facts left out: sessions: ")


def test_each_fact_that_is_left_out_is_named() -> None:
    lease = spoiled("speculator", SPECULATOR, drafters=[{"drafter": 1}], ways="near", cost=[{"width": -1, "ms": 1}])
    assert lease.facts == msgspec.structs.replace(SPECULATOR, drafters=[], ways=[], cost=[])
    assert [part.partition(":")[0] for part in lease.unread.removeprefix("facts left out: ").split("; ")] == [
        "cost", "drafters", "ways"
    ]  # fmt: skip


def test_what_a_service_says_of_its_own_readers_does_not_count() -> None:
    lease = read_lease(written("edge", FACTS_OF["edge"](), unread="all of it"), "edge.n.i")
    assert lease is not None
    assert lease.unread == ""


@given(HOSTILE)
def test_whatever_stands_there_the_struct_of_the_service_comes_out(told: tuple[str, dict[str, object]]) -> None:
    service, facts = told
    value = json.dumps(facts).encode()
    found, unread = read_facts(service, value)
    assert type(found) is FACTS_OF[service]
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
    assert bool(unread) == any(f"{name}: " in unread for name in facts.keys() & set(NAMES[service]))


@pytest.mark.parametrize("value", [b"", b"[]", b"7", b'{"sessions": 1'])
def test_facts_that_are_none_leave_the_defaults(value: bytes) -> None:
    assert read_facts("drafter", value) == (DrafterLeaseFacts(), "its facts cannot be read")
    assert read_facts("somebody", value) == (OtherFacts(), "its facts cannot be read")


def test_a_service_that_is_not_of_twd_is_shown_as_it_is() -> None:
    class Strange(LeaseFacts, frozen=True):
        running: int = 0
        deep: dict[str, int] = {}

    lease = read_lease(written("strange", Strange(ready=False, running=3, deep={"a": 1})), "strange.n.i")
    assert lease is not None
    assert (lease.facts.ready, lease.model) == (False, "")
    assert shown_facts(lease.facts) == {"ready": False, "running": 3}
    assert lease.unread.startswith("facts left out: deep: ")


def test_what_is_not_known_is_not_shown_and_what_is_nothing_is() -> None:
    shown = shown_facts(SPECULATOR)
    assert (shown["sessions"], shown["guests"], shown["exact"]) == (0 + 2, [], True)
    assert shown_facts(SpeculatorFacts(sessions=0, ready=False))["sessions"] == 0
    assert {"file", "place", "experts"}.isdisjoint(shown)
    assert "exact" not in shown_facts(SpeculatorFacts())


def test_only_services_with_a_model_have_one() -> None:
    named = {service for service, kind in FACTS_OF.items() if issubclass(kind, WorkerFacts)}
    assert named == {"speculator", "relay", "drafter", "stage"}
