"""The service on the bus: machines find each other by their leases, and take bytes by encrypted ways alone."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.engine.tiny_models import write_llama
from tests.signed import signed
from tests.split_models import split
from tests.swarm.swarms import model
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice import read_cuts, write_slice
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.reply_decoding import read_answer
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.pieces.manifest import Manifest
from twd.pieces.names import manifest_of
from twd.pieces.tree import UNIT
from twd.settings.model import DrafterConfig, PoolConfig, Settings, SwarmConfig
from twd.swarm.local_key import proof_here
from twd.swarm.service import Swarm
from twd.wire.base import Event, InstanceId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.failures import FailureCode
from twd.wire.leases.machine import SwarmFacts
from twd.wire.node import ModelFile, NodeChanged, NodeFacts
from twd.wire.routes import EVERYTHING, subject_of
from twd.wire.service import read_lease
from twd.wire.swarm import (
    LayerRange,
    PullAnswered,
    PullFailed,
    PullFinished,
    PullUnwanted,
    PullWanted,
    SeedChanged,
    SliceHere,
)


class World:
    """Machines on one bus, and what was told there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.told: list[Event] = []
        self.services: dict[str, Swarm] = {}
        self._stack = AsyncExitStack()

    async def begin(self) -> None:
        """Listen."""
        await self.broker.connect("watcher").subscribe(EVERYTHING, self._take)

    def _take(self, message: object) -> None:
        event = decode(message.data)  # type: ignore[attr-defined]
        if isinstance(event, Event):
            self.told.append(event)

    def home(self, node: str) -> Path:
        """A machine's state folder."""
        return self.folder / node

    async def machine(
        self, node: str, *, accept: bool = True, trusted: bool = False, drafters: tuple[DrafterConfig, ...] = ()
    ) -> Swarm:
        """One more service."""
        (self.home(node) / "models").mkdir(parents=True, exist_ok=True)
        settings = Settings(
            home=str(self.home(node)),
            swarm=SwarmConfig(port=0, accept=accept),
            pool=PoolConfig(trusted_lan=trusted),
            drafters=drafters,
        )
        bus = self.broker.connect(node)
        ctx = ServiceContext(bus=bus, node=NodeId(node), clock=SystemClock(), ids=Ids(random.Random(node)))
        service = self.services[node] = Swarm(ctx, settings)
        await service.start()
        return service

    def models(self, node: str, path: Path, quick: str = "") -> None:
        """The agent of a machine tells of a file."""
        listed = ModelFile(name=path.stem, path=str(path), size_bytes=path.stat().st_size, hash=quick)
        instance = InstanceId(f"agent.{node}.x")
        facts = NodeFacts(node=NodeId(node), instance=instance, machine=node, pid=1, models=[listed])
        event = signed(NodeChanged(node=NodeId(node), facts=facts))
        self.broker.connect("agent").publish(subject_of(event), encode(event))

    async def ask(self, event: Event) -> PullAnswered:
        """A wish and its answer."""
        answer = read_answer(
            await self.broker.connect("asker").request(subject_of(event := signed(event)), encode(event), timeout_s=20)
        )
        assert isinstance(answer, PullAnswered)
        return answer

    async def until(self, kind: type[Event], count: int = 1) -> list[Event]:
        """Until so many of these were told."""
        await until(lambda: len(self.heard(kind)) >= count, f"{count} of {kind.__name__}")
        return self.heard(kind)

    def heard(self, kind: type[Event]) -> list[Event]:
        """All of these that were told."""
        return [one for one in self.told if isinstance(one, kind)]

    async def close(self) -> None:
        """End all."""
        for service in self.services.values():
            await service.stop()


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    world = World(folder)
    await world.begin()
    try:
        yield world
    finally:
        await world.close()


def with_model(world: World, node: str, *, known: bool = True) -> tuple[Path, Manifest]:
    folder = world.home(node) / "models"
    folder.mkdir(parents=True)
    path, manifest = model(folder)
    if not known:
        manifest_of(path).unlink()
    return path, manifest


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


@pytest.fixture
def real(tmp_path: Path, q4_path: Path) -> Path:
    """A real model, with room for its manifest beside."""
    path = tmp_path / q4_path.name
    path.symlink_to(q4_path)
    return path


@pytest.mark.model
async def test_layers_go_from_machine_to_machine(tmp_path: Path, real: Path) -> None:
    quick, layers = file_hash(real), LayerRange(first=4, end=9)
    async with world_in(tmp_path) as world:
        a, b, c = [await world.machine(node) for node in "abc"]
        world.models("a", real, quick)
        await until(lambda: a.facts().files, "the agent's list is known")
        wanted = PullWanted(node=NodeId("b"), hash=quick, layers=layers)
        assert (await world.ask(wanted)).failure is None
        await until(lambda: b.facts().store.slices, "the slice is there")
        (done,) = await world.until(PullFinished)
        assert isinstance(done, PullFinished)
        assert (done.hash, done.layers) == (quick, layers)
        made = world.home("b") / "cache" / "slices" / f"{real.stem}-4-9-{quick}.gguf"
        assert done.path == str(made)
        expected = write_slice(real, 4, 9, tmp_path / "expected.gguf", head=False).path
        assert made.read_bytes() == expected.read_bytes()
        assert done.fetched_bytes < 16 * UNIT
        assert b.facts().store.slices == [SliceHere(hash=quick, layers=layers)]
        assert (await world.ask(wanted)).done
        assert not list((world.home("b") / "models").iterdir())
        await a.stop()  # b gives on what it has
        assert (await world.ask(msgspec.structs.replace(wanted, node=NodeId("c")))).failure is None
        await until(lambda: c.facts().store.slices, "the slice came from b")


@pytest.mark.model
async def test_what_was_fetched_for_its_layers_is_shared_after_a_restart(tmp_path: Path, real: Path) -> None:
    quick, layers = file_hash(real), LayerRange(first=4, end=9)
    async with world_in(tmp_path) as world:
        a, b = await world.machine("a"), await world.machine("b")
        world.models("a", real, quick)
        await until(lambda: a.facts().files, "the agent's list is known")
        await world.ask(PullWanted(node=NodeId("b"), hash=quick, layers=layers))
        await world.until(PullFinished)
        await b.stop()
        again = await world.machine("b")
        (shared,) = again.facts().files
        assert 8 <= shared.have < shared.units
        for path in (world.home("b") / "cache" / "parts").glob("*/*"):
            path.unlink()
        await until(lambda: not again.facts().files, "what was removed is shared no more")


async def test_layers_that_nobody_has_are_told_with_the_reason(tmp_path: Path) -> None:
    layers = LayerRange(first=4, end=9)
    async with world_in(tmp_path) as world:
        b = await world.machine("b")
        wanted = PullWanted(node=NodeId("b"), hash="ab" * 16, layers=layers)
        assert (await world.ask(wanted)).failure is None
        (failed,) = await world.until(PullFailed)
        assert isinstance(failed, PullFailed)
        assert failed.failure.code is FailureCode.NO_SOURCE
        (told,) = b.facts().store.fetching
        assert "no machine of this bus has" in told.problem
        await world.ask(PullUnwanted(node=NodeId("b"), root="", hash=wanted.hash, layers=layers))
        assert not b.facts().store.fetching


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


@pytest.mark.model
async def test_what_came_is_shared_though_the_rest_does_not_come(tmp_path: Path, real: Path) -> None:
    quick = file_hash(real)
    async with world_in(tmp_path) as world:
        a, b = await world.machine("a"), await world.machine("b")
        world.models("a", real, quick)
        await until(lambda: a.facts().files, "the agent's list is known")
        await world.ask(PullWanted(node=NodeId("b"), hash=quick, layers=LayerRange(first=4, end=9)))
        await world.until(PullFinished)
        wanted = PullWanted(node=NodeId("b"), hash=quick, layers=LayerRange(first=0, end=99))
        await world.ask(wanted)
        (failed,) = await world.until(PullFailed)
        assert isinstance(failed, PullFailed)
        assert "out of range" in failed.failure.message
        (shared,) = b.facts().files
        assert 8 <= shared.have < shared.units


def with_split_model(world: World, node: str, whole: Path, count: int = 3) -> list[Path]:
    """A machine's model in several files; its agent will list it."""
    return split(whole, world.home(node) / "models", count)


async def test_a_split_model_goes_whole_from_machine_to_machine(tmp_path: Path) -> None:
    whole = write_llama(tmp_path / "tiny.gguf")
    async with world_in(tmp_path) as world:
        files = with_split_model(world, "a", whole)
        a, b = await world.machine("a"), await world.machine("b")
        world.models("a", files[0], file_hash(files[0]))
        await until(lambda: a.facts().files, "the agent's list is known")
        answer = await world.ask(PullWanted(node=NodeId("b"), file="tiny"))
        assert answer.failure is None
        assert len(answer.more) == 2
        await world.until(PullFinished, 3)
        for file in files:
            assert (world.home("b") / "models" / file.name).read_bytes() == file.read_bytes()
        (first, *_) = sorted(b.facts().files, key=lambda one: one.file)
        assert first.hash == file_hash(files[0])
        assert (first.have, first.units) == (3, 3), "of all its files"
        assert (await world.ask(PullWanted(node=NodeId("b"), hash=first.hash))).done
        one = world.home("b") / "models" / "alone.gguf"
        refused = await world.ask(
            PullWanted(
                node=NodeId("b"), hash=first.hash, dest=str(one), proof=proof_here(world.home("b"), "", "", str(one))
            )
        )
        assert refused.failure is not None
        assert "name a folder" in refused.failure.message


@pytest.mark.model
async def test_layers_of_a_split_model_go_from_machine_to_machine(tmp_path: Path, q4_path: Path) -> None:
    layers = LayerRange(first=4, end=9)
    async with world_in(tmp_path) as world:
        files = with_split_model(world, "a", q4_path)
        quick = file_hash(files[0])
        a, b, c = [await world.machine(node) for node in "abc"]
        world.models("a", files[0], quick)
        await until(lambda: a.facts().files, "the agent's list is known")
        wanted = PullWanted(node=NodeId("b"), hash=quick, layers=layers)
        assert (await world.ask(wanted)).failure is None
        await until(lambda: b.facts().store.slices, "the slice is there")
        made = next((world.home("b") / "cache" / "slices").glob("*.gguf"))
        expected = write_slice(files[0], 4, 9, tmp_path / "expected.gguf", head=False).path
        assert made.read_bytes() == expected.read_bytes()
        (first,) = [one for one in b.facts().files if one.hash == quick]
        assert 0 < first.have < first.units, "it does not have the model"
        await a.stop()  # b gives on what it has, the manifests, too
        assert (await world.ask(msgspec.structs.replace(wanted, node=NodeId("c")))).failure is None
        await until(lambda: c.facts().store.slices, "the slice came from b")


async def test_headers_alone_come_to_any_machine_and_read_like_the_model(tmp_path: Path) -> None:
    whole = write_sliceable("qwen3", tmp_path)
    async with world_in(tmp_path) as world:
        files = with_split_model(world, "a", whole)
        a = await world.machine("a")
        await world.machine("b", accept=False)
        world.models("a", files[0], file_hash(files[0]))
        await until(lambda: a.facts().files, "the agent's list is known")
        answer = await world.ask(PullWanted(node=NodeId("b"), hash=file_hash(files[0]), headers=True))
        assert (answer.failure, answer.done) == (None, True)
        copy = Path(answer.path)
        assert copy.is_relative_to(world.home("b") / "cache/headers")
        assert read_cuts(copy) == read_cuts(files[0])
        assert inspect(copy).layer_bytes == inspect(files[0]).layer_bytes
        assert inspect(copy).size_bytes == inspect(files[0]).size_bytes
        again = await world.ask(PullWanted(node=NodeId("b"), hash=file_hash(files[0]), headers=True))
        assert again.path == answer.path


@pytest.mark.model
async def test_headers_are_told_while_layers_of_the_model_come(tmp_path: Path, q4_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = with_split_model(world, "a", q4_path)
        quick = file_hash(files[0])
        a, b = await world.machine("a"), await world.machine("b")
        world.models("a", files[0], quick)
        await until(lambda: a.facts().files, "the agent's list is known")
        wanted = PullWanted(node=NodeId("b"), hash=quick, headers=True)
        layers = msgspec.structs.replace(wanted, headers=False, layers=LayerRange(first=4, end=9))
        answers = await asyncio.gather(world.ask(layers), world.ask(wanted))
        assert [one.failure for one in answers] == [None, None]
        await until(lambda: b.facts().store.slices, "the slice is there")
        assert not world.heard(PullFailed)
        assert read_cuts(Path(answers[1].path)) == read_cuts(files[0])


@pytest.mark.model
async def test_a_whole_model_takes_the_layers_that_are_here(tmp_path: Path, q4_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = with_split_model(world, "a", q4_path)
        quick = file_hash(files[0])
        a = await world.machine("a")
        await world.machine("b")
        world.models("a", files[0], quick)
        await until(lambda: a.facts().files, "the agent's list is known")
        await world.ask(PullWanted(node=NodeId("b"), hash=quick, layers=LayerRange(first=10, end=30, head=True)))
        (sliced,) = await world.until(PullFinished)
        assert isinstance(sliced, PullFinished)
        answer = await world.ask(PullWanted(node=NodeId("b"), hash=quick))
        assert answer.failure is None
        done = (await world.until(PullFinished, 4))[1:]
        assert not world.heard(PullFailed)
        fetched = sum(one.fetched_bytes for one in done if isinstance(one, PullFinished))
        assert fetched + sliced.fetched_bytes == sum(file.stat().st_size for file in files)
        for file in files:
            assert (world.home("b") / "models" / file.name).read_bytes() == file.read_bytes()
