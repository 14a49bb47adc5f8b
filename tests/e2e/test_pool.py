"""A model over workers on machines that are played here: the text is the unpooled model's, whoever dies meanwhile."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.e2e.streaming import stream, struck
from tests.waiting import wait_until
from twd.net.ports import listening_below

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow]


@pytest.fixture(scope="module")
def alone(demo: Installed) -> str:
    """What the model says without a pool."""
    with client_of(demo) as client:
        return "".join(stream(client))


@pytest.fixture(scope="module", params=[pytest.param("rpc", marks=pytest.mark.thorough), "ring"])
def pool(
    model_cache: Path, alone: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Installed]:
    home = tmp_path_factory.mktemp("pool") / "home"
    with running(home, "--demo", f"--{request.param}", "2", "--link-rtt", "2", weights=model_cache) as installed:
        yield installed


@pytest.fixture
def client(pool: Installed) -> Iterator[OpenAI]:
    with client_of(pool) as client:
        yield client


def workers(pool: Installed) -> list[int]:
    """The RPC workers of this installation, or the stages: what listens, unlike one that waits for its start."""
    return listening_below(pid for name, pid in pool.pids().items() if name.startswith("agent."))


def pooled(pool: Installed) -> dict[str, object]:
    (facts,) = [one["facts"] for one in pool.status()["services"] if one["service"] == "speculator"]
    return dict(facts)


def well_again(pool: Installed) -> None:
    wait_until(lambda: pool.status().get("healthy", False), "the system is healthy again", timeout_s=90)


def test_status_shows_where_the_model_lies(pool: Installed, client: OpenAI) -> None:
    "".join(stream(client))
    facts = pooled(pool)
    shown = [str(part).removesuffix(", head") for part in facts["pool"]]  # type: ignore[attr-defined]
    assert {"layers 0-14", "layers 15-29"} <= {part.split(" ", 1)[1] for part in shown}
    assert {part.split("/")[0].split(" ")[0] for part in shown} >= {"node-1", "node-2"}
    assert facts["exact"]
    assert len(facts["links"]) >= 2  # type: ignore[arg-type]


def test_the_text_is_the_one_of_the_model_alone(client: OpenAI, alone: str) -> None:
    assert "".join(stream(client)) == alone


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.thorough)])
def test_a_worker_that_dies_or_hangs_in_mid_stream_changes_nothing(
    pool: Installed, client: OpenAI, alone: str, how: signal.Signals
) -> None:
    assert struck(client, workers(pool)[-1], how) == alone
    well_again(pool)


@pytest.mark.thorough
def test_a_killed_coordinator_goes_unnoticed(pool: Installed, client: OpenAI, alone: str) -> None:
    before = pool.pids()["speculator.smollm2-135m"]
    assert struck(client, pool.pids()["coordinator"], signal.SIGKILL) == alone
    well_again(pool)
    assert pool.pids()["speculator.smollm2-135m"] == before


@pytest.mark.thorough
def test_a_killed_agent_takes_its_worker_along_and_both_come_back(pool: Installed, client: OpenAI, alone: str) -> None:
    assert struck(client, pool.pids()["agent.node-2"], signal.SIGKILL) == alone
    well_again(pool)
    assert "".join(stream(client)) == alone
