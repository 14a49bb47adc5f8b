"""A ring with spares on machines that are played here: what is lost is served elsewhere at once, with the same text."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.e2e.streaming import stream, struck
from tests.e2e.test_pool import well_again, workers
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow, pytest.mark.thorough]
MACHINES = 3


@pytest.fixture(scope="module")
def pool(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    home = tmp_path_factory.mktemp("spares") / "home"
    played = ("--demo", "--ring", str(MACHINES), "--link-rtt", "2")
    with running(home, *played, weights=model_cache, TWD_POOL_STANDBY="1") as installed:
        yield installed


@pytest.fixture
def client(pool: Installed) -> Iterator[OpenAI]:
    with client_of(pool) as client:
        yield client


def decision(pool: Installed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pool.twd("plan", "--json").stdout)
    return found


def with_spares(pool: Installed) -> dict[str, Any]:
    """The decision, once every slice has a spare that runs."""
    wait_until(lambda: len(decision(pool).get("spares", ())) >= MACHINES, "every slice has a spare", timeout_s=60)
    wait_until(lambda: len(workers(pool)) >= 2 * MACHINES, "all of them run", timeout_s=60)
    well_again(pool)
    return decision(pool)


def cut(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(piece["first"], piece["end"]) for piece in found["slices"]]


def test_an_agent_of_the_pool_runs_the_drafter(pool: Installed) -> None:
    def drafts() -> bool:
        return any(one["service"] == "drafter" and one["facts"].get("ready") for one in pool.status()["services"])

    wait_until(drafts, "the drafter is ready", timeout_s=60)
    assert not [name for name in pool.pids() if name.startswith("drafter")]


def test_a_machine_that_is_lost_in_mid_stream_is_replaced_by_its_spare(pool: Installed, client: OpenAI) -> None:
    before = with_spares(pool)
    undisturbed = "".join(stream(client))
    lost = next(piece["node"] for piece in before["slices"] if piece["node"] != before["home"])
    assert struck(client, pool.pids()[f"agent.{lost}"], signal.SIGKILL) == undisturbed
    after = with_spares(pool)
    assert cut(after) == cut(before), "no layer moves between slices"
    assert "".join(stream(client)) == undisturbed
    assert all(
        (piece["node"], piece["process"]) not in {(one["node"], one["process"]) for one in after["slices"]}
        for piece in after["spares"]
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stage_that_dies_or_hangs_is_no_end(pool: Installed, client: OpenAI, how: signal.Signals) -> None:
    with_spares(pool)
    undisturbed = "".join(stream(client))
    for pid in workers(pool)[:2]:
        assert struck(client, pid, how) == undisturbed
        with_spares(pool)
