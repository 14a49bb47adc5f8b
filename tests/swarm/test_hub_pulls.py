"""Machines of one bus that want a model from a hub: one reads it there, the others take from it while it reads."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.models.hubs import Hub, Repository, serving_hub, sha256
from tests.swarm.world import World, world_in
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.pieces.manifest import load_manifest
from twd.pieces.names import manifest_of, part_of, wish_of
from twd.pieces.tree import UNIT
from twd.swarm.hub.claim import HubClaim, order_of
from twd.wire.base import InstanceId, NodeId
from twd.wire.failures import FailureCode
from twd.wire.swarm import HUB_READERS, PullAnswered, PullFailed, PullFinished, PullUnwanted, PullWanted

SPEC = "org/Model-GGUF:Q4_K_M"
DATA = b"GGUF" + os.urandom(12 * UNIT + 99)


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    shards = {f"m-Q8_0-0000{number}-of-00002.gguf": b"GGUF" + os.urandom(UNIT) for number in (1, 2)}
    made = Hub({"org/Model-GGUF": Repository({"m-Q4_K_M.gguf": DATA, **shards})})
    async with serving_hub(made) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HOME", str(tmp_path))
        yield made


async def wish(world: World, node: str, spec: str = SPEC) -> PullAnswered:
    return await world.ask(PullWanted(node=NodeId(node), spec=spec))


def copy_of(world: World, node: str) -> Path:
    return world.home(node) / "models/m-Q4_K_M.gguf"


async def test_of_four_machines_one_reads_from_the_hub(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.swarm.hub.claim.SILENT_S", 60.0)  # on a busy computer nobody may take the reader for lost
    hub.bytes_s = 1.5e6
    async with world_in(tmp_path) as world:
        for node in "abcd":
            await world.machine(node)
        answers = await asyncio.gather(*(wish(world, node) for node in "abcd"))
        assert {(one.failure, one.root, one.done) for one in answers} == {(None, sha256(DATA), False)}
        await world.until(PullFinished, 4)
        for node in "abcd":
            assert copy_of(world, node).read_bytes() == DATA
            assert load_manifest(manifest_of(copy_of(world, node))).sha256 == sha256(DATA)
        assert hub.sent_bytes <= 1.05 * len(DATA)
        again = await wish(world, "c")
        assert again.done


async def test_who_comes_later_takes_from_who_has_it(tmp_path: Path, hub: Hub) -> None:
    async with world_in(tmp_path) as world:
        await world.machine("a")
        await wish(world, "a")
        await world.until(PullFinished)
        sent = hub.sent_bytes
        await world.services["a"].renew_lease()
        hub.answer_instead = lambda request: None if "/api/" in request.path else refuse()
        await world.machine("b")
        await wish(world, "b")
        await world.until(PullFinished, 2)
        assert copy_of(world, "b").read_bytes() == DATA
        assert hub.sent_bytes == sent


async def refuse() -> web.StreamResponse:
    raise web.HTTPForbidden


async def test_where_the_reader_is_lost_the_next_goes_on(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.swarm.hub.claim.SILENT_S", 1.0)
    monkeypatch.setattr("twd.swarm.service.LOOK_S", 0.1)
    hub.stall_after = 9 * UNIT
    async with world_in(tmp_path) as world:
        for node in "ab":
            await world.machine(node)
        for node in "ab":
            await wish(world, node)
        readers = world.services

        def reader() -> str:
            jobs = {node: list(one._hub._running.values()) for node, one in readers.items()}
            return "".join(node for node, some in jobs.items() if some and some[0].transfer.uses_hub)

        await until(lambda: hub.sent_bytes >= hub.stall_after and reader(), "somebody reads")
        lost = reader()
        assert lost in ("a", "b")
        await world.services.pop(lost).stop()
        hub.stall_after = 0
        await world.until(PullFinished)
        (other,) = {"a", "b"} - {lost}
        assert copy_of(world, other).read_bytes() == DATA
        assert part_of(copy_of(world, lost)).exists()


async def test_all_shards_come_and_a_pull_can_be_stopped(tmp_path: Path, hub: Hub) -> None:
    async with world_in(tmp_path) as world:
        await world.machine("a")
        answer = await wish(world, "a", "org/Model-GGUF:Q8_0")
        assert len(answer.more) == 1
        await world.until(PullFinished, 2)
        assert len(list((world.home("a") / "models").glob("*.gguf"))) == 2
        hub.bytes_s = 100_000
        answer = await wish(world, "a")
        await world.ask(PullUnwanted(node=NodeId("a"), root=answer.root))
        assert not list(world.services["a"]._hub.progressed())
        assert not copy_of(world, "a").exists()
        assert not wish_of(copy_of(world, "a")).exists()


@pytest.mark.parametrize(
    ("spec", "cause", "code"),
    [
        ("org/none:Q4_K_M", "knows no repository", FailureCode.MODEL_NOT_FOUND),
        ("nonsense", "names no model", FailureCode.BAD_REQUEST),
    ],
)
async def test_what_cannot_come_is_answered(tmp_path: Path, hub: Hub, spec: str, cause: str, code: FailureCode) -> None:
    async with world_in(tmp_path) as world:
        await world.machine("a")
        answer = await wish(world, "a", spec)
        assert answer.failure is not None
        assert cause in answer.failure.message
        assert answer.failure.code is code


async def test_a_service_that_comes_back_goes_on(tmp_path: Path, hub: Hub) -> None:
    hub.stall_after = 9 * UNIT
    async with world_in(tmp_path) as world:
        running = (await world.machine("a"))._hub._running
        await wish(world, "a")
        await until(lambda: sum(job.transfer.file.have.count for job in running.values()) > 1, "some of it is here")
        await world.services.pop("a").stop()
        assert wish_of(copy_of(world, "a")).exists()
        hub.stall_after = 0
        await world.machine("a")
        await world.until(PullFinished)
        assert copy_of(world, "a").read_bytes() == DATA
        done = world.heard(PullFinished)[0]
        assert isinstance(done, PullFinished)
        assert done.fetched_bytes < len(DATA) - UNIT
        assert not wish_of(copy_of(world, "a")).exists()


async def test_wrong_bytes_get_no_name(tmp_path: Path, hub: Hub) -> None:
    hub.spoil = True
    async with world_in(tmp_path) as world:
        await world.machine("a")
        await wish(world, "a")
        failed = (await world.until(PullFailed))[0]
        assert isinstance(failed, PullFailed)
        assert failed.failure.code is FailureCode.WRONG_BYTES
        assert not copy_of(world, "a").exists()


# -- the claim ---------------------------------------------------------------------------------------


async def test_a_file_has_one_reader_and_files_do_not_wait_for_each_other() -> None:
    broker = MemoryBroker()
    one, other = broker.connect("one"), broker.connect("other")
    name = "0" * 64
    first = HubClaim(one, InstanceId("one"), name)
    second = HubClaim(other, InstanceId("other"), name)
    assert await first.turn()
    assert not await second.turn()
    assert await first.turn()
    more = [HubClaim(other, InstanceId("other"), f"{number:08x}{'0' * 56}") for number in range(8, 8 * 9, 8)]
    assert [await claim.turn() for claim in more] == [True] * 7 + [False]
    await first.release()
    assert await second.turn()
    leases = await one.leases(LEASE_BUCKET, LEASE_TTL_S)
    assert len(await leases.entries()) == len(HUB_READERS)
    assert set(order_of(name)) == set(HUB_READERS)


async def test_a_holder_is_lost_when_it_is_silent_at_two_looks_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.swarm.hub.claim.SILENT_S", -1.0)  # every claim looks old
    broker = MemoryBroker()
    one, other = broker.connect("one"), broker.connect("other")
    first, second = (HubClaim(bus, InstanceId(name), "0" * 64) for bus, name in ((one, "one"), (other, "other")))
    assert await first.turn()
    assert not await second.turn()
    assert await first.turn(), "it was only late"
    assert not await second.turn()
    assert await second.turn()
    assert not await first.turn()


async def test_a_reader_keeps_its_claim_until_the_others_know_what_it_has(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.swarm.hub.pulls.LAST_NEWS_S", 600.0)
    async with world_in(tmp_path) as world:
        await world.machine("a")
        await wish(world, "a")
        await world.until(PullFinished)
        other = HubClaim(world.broker.connect("other"), InstanceId("other"), sha256(DATA))
        assert not await other.turn()
        await world.services.pop("a").stop()
        assert await other.turn()
