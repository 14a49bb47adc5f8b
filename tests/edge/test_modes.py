"""How a request is served: by its word, by its model's name, by routes, by the house; and who may ask for what."""

import pytest

from tests.edge.conftest import House, OpenHouse, ctx
from tests.waiting import until
from twd.edge.modes import choose, full_name, house_mode, routed, split
from twd.racer.service import Racer
from twd.settings.model import GateRoute
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.leases.gate import GateFacts
from twd.wire.service import Health, ServiceLease


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("big", ("big", "")),
        ("big+gate", ("big", "gate")),
        ("big+consensus", ("big", "consensus")),
        ("gate", ("default", "gate")),
        ("+gate", ("+gate", "")),
    ],
)
def test_names_tell_the_mode(name: str, parts: tuple[str, str]) -> None:
    assert split(name) == parts


def test_the_requests_own_word_counts_most() -> None:
    assert choose("direct", "gate", "consensus", "speculate").mode == "direct"
    assert choose(None, "gate", "consensus", "speculate").mode == "gate"
    assert choose(None, "", "consensus", "speculate").mode == "consensus"
    assert choose(None, "", "", "gate") == choose(None, "", "gate", "speculate")
    assert full_name(ModelId("m"), "direct") == "m"


@pytest.mark.parametrize(
    ("setting", "mode"), [("combined", "speculate"), ("combined+gate", "gate"), ("gate", "gate"), ("direct", "direct")]
)
def test_a_pool_is_no_mode_of_requests(setting: str, mode: str) -> None:
    assert house_mode(setting) == mode


def test_routes_go_by_key_and_length() -> None:
    routes = [GateRoute(mode="gate", key="batch"), GateRoute(mode="direct", max_tokens_from=1, max_tokens_to=50)]
    assert routed(routes, "batch", None) == "gate"
    assert routed(routes, "other", 20) == "direct"
    assert routed(routes, "other", 500) == ""
    assert routed(routes, "other", None) == ""


def judge(house: House) -> None:
    """A gate that judges by the house's model is there."""
    house.edge.watch.services = [
        ServiceLease(
            service="gate",
            instance=InstanceId("gate.n.1"),
            node=NodeId("n"),
            pid=1,
            version="1",
            started_ms=1,
            renewed_ms=1,
            health=Health.OK,
            facts=GateFacts(gates=["small"]),
        )
    ]
    house.edge.models.see_leases(house.edge.watch.services, house.edge.clock.now())


async def test_without_a_gate_the_answer_says_what_to_do(house: House) -> None:
    refused = await house.chat(model="small+gate")
    assert refused.status == 503
    assert "gate.fleet" in (await refused.json())["error"]["message"]
    named = await house.chat(model="small", twd={"mode": "gate"})
    assert named.status == 503


async def test_exact_and_a_mode_that_may_change_text_exclude_each_other(house: House) -> None:
    judge(house)
    for mode in ("gate", "consensus"):
        refused = await house.chat(model="small", twd={"mode": mode, "exact": True})
        assert refused.status == 400
        assert (await refused.json())["error"]["param"] == "twd.exact"


async def test_consensus_without_a_racer_is_exact(house: House) -> None:
    answer = await (await house.chat(model="small+consensus")).json()
    assert answer["twd"]["approximate"] is False
    assert house.speculator.jobs[-1].model == "small"


async def test_a_racer_that_starts_is_known_at_once(open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.edge.service.REFRESH_S", 3600.0)
    house = await open_house()
    assert not house.edge.models.serves(ModelId("small"), "consensus")
    racer = Racer(ctx(house.broker, 4))
    house.others.append(racer)
    await racer.start()
    await until(lambda: house.edge.models.serves(ModelId("small"), "consensus"), "the edge knows of the racer")


async def test_tools_and_logprobs_are_asked_of_the_model_itself(house: House) -> None:
    judge(house)
    answer = await (await house.chat(model="small+gate", logprobs=True)).json()
    assert answer["twd"]["mode"] == "speculate"
    assert house.speculator.jobs[-1].model == "small"


async def test_models_are_listed_by_all_their_names(house: House) -> None:
    judge(house)
    listed = await (await house.http.get(house.edge.url + "/v1/models")).json()
    assert [one["id"] for one in listed["data"]] == ["small", "small+gate", "default", "twd"]
    one = await (await house.http.get(house.edge.url + "/v1/models/small+gate")).json()
    assert one["twd"]["mode"] == "gate"


async def test_where_a_gate_is_lost_the_model_itself_goes_on(house: House) -> None:
    judge(house)
    answer = await (await house.chat(model="small+gate")).json()
    assert answer["choices"][0]["message"]["content"] == "Hello, wörld 👋!"
    assert [job.model for job in house.speculator.jobs] == ["small"]
    assert "went on itself" in answer["twd"]["why"]
    assert answer["twd"]["mode"] == "gate"
