"""Which models there are, from settings, events and leases."""

import msgspec
import pytest

from tests.edge.fake_speculator import FACTS, MODEL
from twd.chat.tool_calls.formats import ToolFormat
from twd.edge.models import SETTLE_S, ModelDirectory
from twd.settings.model import DEFAULT_NAMES
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.base import LeaseFacts
from twd.wire.leases.machine import SupervisorFacts
from twd.wire.leases.reading import FACTS_OF
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import DrafterLeaseFacts, StageFacts
from twd.wire.model import Exactness, ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.service import Health, ServiceLease

ONE = InstanceId("speculator.n.1")
NODE = NodeId("n")


def ready() -> ModelReady:
    return ModelReady(node=NODE, facts=FACTS, source=ONE, at_ms=5000)


def lease(facts: LeaseFacts, health: Health = Health.OK) -> ServiceLease:
    service = next(name for name, kind in FACTS_OF.items() if isinstance(facts, kind))
    return ServiceLease(
        service=service,
        instance=ONE,
        node=NODE,
        pid=1,
        version="1",
        started_ms=7000,
        renewed_ms=8000,
        health=health,
        facts=facts,
    )


def test_a_model_comes_by_event_and_goes() -> None:
    directory = ModelDirectory()
    with pytest.raises(TwdError) as nothing:
        directory.resolve("default")
    assert nothing.value.code is FailureCode.NOBODY_HOME
    directory.ready(ready(), 0.0)
    assert directory.resolve("default") == MODEL
    assert directory.card(MODEL).created == 5
    assert directory.card(MODEL).twd["ctx_size"] == 8192
    directory.unloaded(ModelUnloaded(model=MODEL, node=NODE, source=ONE))
    assert directory.live == []
    assert directory.resolve(MODEL) == MODEL
    assert "no process" in directory.why_nobody(MODEL)


def test_every_name_that_requests_may_use_is_listed() -> None:
    directory = ModelDirectory()
    assert directory.listed().data == []
    directory.ready(ready(), 0.0)
    listed = directory.listed().data
    assert [card.id for card in listed] == [MODEL, *DEFAULT_NAMES]
    assert all(directory.resolve(card.id) == card.twd.get("alias_of", card.id) for card in listed)
    assert [card.id for card in directory.cards()] == [MODEL]
    assert directory.card_of("default").id == "default"


def test_a_model_with_an_aliass_name_is_itself() -> None:
    directory = ModelDirectory(configured=("big", "default"), default="big")
    assert [(card.id, card.twd.get("alias_of")) for card in directory.listed().data] == [
        ("big", None),
        ("default", None),
        ("twd", "big"),
    ]


def test_an_edge_that_came_later_reads_leases() -> None:
    directory = ModelDirectory()
    directory.see_leases([lease(SpeculatorFacts(model=MODEL, exact=True, tool_format="hermes"))], 0.0)
    assert directory.live == [MODEL]
    assert directory.exact(MODEL) is True
    assert directory.tool_format(MODEL) is ToolFormat.HERMES
    assert directory.card(MODEL).created == 7


def test_a_format_of_calls_that_makes_no_sense_is_none() -> None:
    directory = ModelDirectory()
    directory.see_leases([lease(SpeculatorFacts(model=MODEL, tool_format="nonsense"))], 0.0)
    assert directory.tool_format(MODEL) is ToolFormat.BARE


def test_a_lease_that_ended_takes_its_model_along_but_a_fresh_event_has_time() -> None:
    directory = ModelDirectory()
    directory.ready(ready(), 0.0)
    directory.see_leases([], SETTLE_S - 1)
    assert directory.live == [MODEL]
    directory.see_leases([], SETTLE_S + 1)
    assert directory.live == []


def test_drafters_serve_no_model() -> None:
    directory = ModelDirectory()
    directory.see_leases([lease(DrafterLeaseFacts(model=MODEL)), lease(StageFacts(model=MODEL))], 0.0)
    assert directory.known == []


def test_loading_and_draining_models_are_known_but_not_live() -> None:
    for health, words in [(Health.STARTING, "loading"), (Health.DRAINING, "draining")]:
        directory = ModelDirectory()
        directory.see_leases([lease(SpeculatorFacts(model=MODEL, ready=False), health)], 0.0)
        assert directory.live == []
        assert directory.resolve(MODEL) == MODEL
        assert words in directory.why_nobody(MODEL)
        assert words in directory.card(MODEL).twd["note"]
        directory.see_leases([lease(SpeculatorFacts(model=MODEL))], 1.0)
        assert directory.live == [MODEL]
        assert "note" not in directory.card(MODEL).twd


def test_progress_and_failures_are_told() -> None:
    directory = ModelDirectory(("big",), "big")
    directory.loading(ModelLoading(model=ModelId("big"), node=NODE, progress=0.43))
    assert "43%" in directory.why_nobody(ModelId("big"))
    failure = Failure(code=FailureCode.MODEL_LOAD, message="no such file")
    directory.failed(ModelFailed(model=ModelId("big"), node=NODE, failure=failure, source=ONE))
    assert "no such file" in directory.why_nobody(ModelId("big"))
    assert directory.default_model == "big"


def test_exactness() -> None:
    directory = ModelDirectory()
    assert directory.exact(MODEL) is None
    directory.measured(ModelMeasured(model=MODEL, node=NODE, exactness=Exactness(exact=False, settings="x")))
    assert directory.exact(MODEL) is False


def test_names() -> None:
    directory = ModelDirectory(("big", "default"), "big")
    assert directory.resolve("twd") == "big"
    assert directory.resolve("default") == "default"
    with pytest.raises(TwdError, match="known: big, default"):
        directory.resolve("x")


def test_a_machine_that_is_told_to_serve_other_models() -> None:
    directory = ModelDirectory((MODEL, "other"), MODEL, "n")
    directory.ready(ready(), 0.0)
    directory.told(["new"], "new", 9000)
    directory.gone(ONE)
    assert directory.default_model == "new"
    assert directory.known == ["new"]  # what was told to go is not waited for
    with pytest.raises(TwdError) as gone:
        directory.resolve(MODEL)
    assert gone.value.code is FailureCode.MODEL_NOT_FOUND
    directory.told([MODEL, "new"], "new", 9500)
    assert directory.known == [MODEL, "new"]


def test_a_supervisors_lease_tells_the_same_but_not_what_was_before() -> None:
    directory = ModelDirectory((MODEL,), MODEL, "n")
    directory.told(["new"], "new", 9000)
    old = lease(SupervisorFacts(models=[MODEL], default_model=MODEL))
    directory.see_leases([old], 0.0)  # renewed before the change was told
    assert directory.default_model == "new"
    later = msgspec.structs.replace(lease(SupervisorFacts(models=["last"], default_model="last")), renewed_ms=9900)
    directory.see_leases([msgspec.structs.replace(later, node=NodeId("elsewhere"))], 0.0)
    assert directory.default_model == "new"
    directory.see_leases([later], 0.0)
    assert directory.known == ["last"]
