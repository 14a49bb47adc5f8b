"""The service on the bus: machines find each other by their leases, and take bytes by encrypted ways alone."""

import shutil
from pathlib import Path

import msgspec
import pytest

from tests.engine.tiny_models import write_llama
from tests.swarm.world import with_model, world_in
from tests.waiting import until
from twd.gguf_tools.model_file import file_hash
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.pieces.names import manifest_of
from twd.pieces.tree import UNIT
from twd.settings.model import DrafterConfig
from twd.swarm.local_key import proof_here
from twd.wire.base import NodeId
from twd.wire.failures import FailureCode
from twd.wire.leases.machine import SwarmFacts
from twd.wire.service import read_lease
from twd.wire.swarm import (
    PullFailed,
    PullFinished,
    PullUnwanted,
    PullWanted,
    SeedChanged,
)


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_file_goes_from_machine_to_machine(tmp_path: Path, trusted: bool) -> None:
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a")
        for node in "abc":
            await world.machine(node, trusted=trusted)
        world.models("a", path, manifest.quick_hash)
        await world.until(SeedChanged)
        door = world.services["a"].facts().door
        assert door is not None
        assert bool(door.certificate) is not trusted
        for node in "bc":
            answer = await world.ask(PullWanted(node=NodeId(node), root=manifest.root))
            assert answer.failure is None
            assert (answer.file, answer.total_bytes) == (path.name, manifest.total_size)
        await world.until(PullFinished, 2)
        for node in "bc":
            assert (world.home(node) / "models" / path.name).read_bytes() == path.read_bytes()
        again = await world.ask(PullWanted(node=NodeId("b"), root=manifest.root))
        assert again.done


async def test_what_a_machine_shares_stands_in_its_lease(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a")
        service = await world.machine("a")
        world.models("a", path, manifest.quick_hash)
        await world.until(SeedChanged)
        await service.renew_lease()
        leases = await world.broker.connect("x").leases(LEASE_BUCKET, LEASE_TTL_S)
        entry = await leases.get(service.instance)
        assert entry is not None
        lease = read_lease(entry.value, entry.key)
        assert lease is not None
        told = lease.told(SwarmFacts)
        assert told is not None
        assert [(one.root, one.file, one.have, one.units) for one in told.files] == [(manifest.root, path.name, 7, 7)]


async def test_a_model_without_a_manifest_is_read_when_somebody_wants_it(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a", known=False)
        a, _ = await world.machine("a"), await world.machine("b")
        world.models("a", path, manifest.quick_hash)
        await until(lambda: a.facts().files, "the agent's list is known")
        assert not manifest_of(path).exists()
        answer = await world.ask(PullWanted(node=NodeId("b"), file=path.name))
        assert (answer.failure, answer.root) == (None, manifest.root)
        await world.until(PullFinished)
        assert (world.home("b") / "models" / path.name).read_bytes() == path.read_bytes()


async def test_a_certificate_that_nobody_told_is_not_let_in(tmp_path: Path) -> None:
    from twd.pieces.source import SourceError
    from twd.ring.trust import client_context, make_identity
    from twd.swarm.peer import Peers

    async with world_in(tmp_path) as world:
        service = await world.machine("a")
        door = service.facts().door
        assert door is not None
        peers = Peers()
        stranger = client_context(make_identity("stranger"), door.certificate)
        with pytest.raises(SourceError):
            await peers.manifest(f"https://127.0.0.1:{door.port}/v1/swarm", stranger)
        await peers.close()


async def test_a_machine_that_takes_nothing_says_so(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a")
        await world.machine("a")
        await world.machine("b", accept=False)
        world.models("a", path, manifest.quick_hash)
        await world.until(SeedChanged)
        wanted = PullWanted(node=NodeId("b"), root=manifest.root)
        answer = await world.ask(wanted)
        assert answer.failure is not None
        assert answer.failure.code is FailureCode.FORBIDDEN
        assert "swarm.accept" in answer.failure.message
        proof = proof_here(world.home("b"), wanted.root, wanted.file, wanted.dest)
        answer = await world.ask(msgspec.structs.replace(wanted, proof=proof))
        assert answer.failure is None


@pytest.mark.parametrize("dest", ["/etc", "/tmp/../etc/x.gguf", "models/../../elsewhere"])
async def test_nobody_elsewhere_writes_beside_the_folders_of_models(tmp_path: Path, dest: str) -> None:
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a")
        await world.machine("a")
        await world.machine("b")
        world.models("a", path, manifest.quick_hash)
        await world.until(SeedChanged)
        answer = await world.ask(PullWanted(node=NodeId("b"), root=manifest.root, dest=dest, proof="0" * 64))
        assert answer.failure is not None
        assert answer.failure.code is FailureCode.FORBIDDEN


async def test_a_file_that_nobody_has(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.machine("a")
        answer = await world.ask(PullWanted(node=NodeId("a"), file="none.gguf"))
        assert answer.failure is not None
        assert answer.failure.code is FailureCode.NO_SOURCE


async def test_one_name_and_two_roots(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        for node in "ab":
            path, manifest = with_model(world, node)
            await world.machine(node)
            world.models(node, path, manifest.quick_hash)
        await world.machine("c")
        await world.until(SeedChanged, 2)
        answer = await world.ask(PullWanted(node=NodeId("c"), file="model.gguf"))
        assert answer.failure is not None
        assert "several files are called" in answer.failure.message
        assert "by its root" in answer.failure.message


async def test_a_service_that_comes_back_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.swarm.pulls.PATIENCE_S", 0.2)
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a")
        a = await world.machine("a")
        await world.machine("b")
        world.models("a", path, manifest.quick_hash)
        await world.until(SeedChanged)
        await a.stop()
        shutil.copy(manifest_of(path), world.home("b") / "models")
        from twd.pieces.checks import Checks
        from twd.pieces.partial import PartialFile

        part = PartialFile(world.home("b") / "models" / path.name, manifest.name, Checks.of(manifest))
        part.put(2, path.read_bytes()[2 * UNIT : 3 * UNIT])
        part.close()
        b = world.services.pop("b")
        await b.stop()
        await world.machine("b")
        failed = (await world.until(PullFailed))[0]
        assert isinstance(failed, PullFailed)
        assert failed.failure.code is FailureCode.NO_SOURCE
        a = await world.machine("a")
        world.models("a", path, manifest.quick_hash)
        await until(lambda: a.facts().files, "the model is shared again")
        await world.ask(PullWanted(node=NodeId("b"), root=manifest.root))
        done = (await world.until(PullFinished))[0]
        assert isinstance(done, PullFinished)
        assert done.fetched_bytes == manifest.total_size - UNIT


async def test_a_pull_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        path, manifest = with_model(world, "a")
        await world.machine("a")
        b = await world.machine("b")
        world.models("a", path, manifest.quick_hash)
        await world.until(SeedChanged)
        b._pulls._pace.bytes_s = 100_000.0
        await world.ask(PullWanted(node=NodeId("b"), root=manifest.root))
        await world.ask(PullUnwanted(node=NodeId("b"), root=manifest.root))
        assert not b._pulls.running
        assert not (world.home("b") / "models" / path.name).exists()


async def test_draft_models_of_the_settings_are_shared(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "quick.gguf")
    async with world_in(tmp_path) as world:
        a = await world.machine("a", drafters=(DrafterConfig(path=str(path)), DrafterConfig(path="gone.gguf")))
        await world.machine("b")
        (listed,) = a.facts().files
        assert listed.hash == file_hash(path)
        await world.ask(PullWanted(node=NodeId("b"), hash=listed.hash))
        await world.until(PullFinished)
        assert (world.home("b") / "models" / path.name).read_bytes() == path.read_bytes()
