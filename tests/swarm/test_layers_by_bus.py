"""Layers, split models and headers go from machine to machine over the bus."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.engine.tiny_models import write_llama
from tests.split_models import split
from tests.swarm.world import World, world_in
from tests.waiting import until
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice import read_cuts, write_slice
from twd.pieces.tree import UNIT
from twd.swarm.local_key import proof_here
from twd.wire.base import NodeId
from twd.wire.failures import FailureCode
from twd.wire.swarm import (
    LayerRange,
    PullFailed,
    PullFinished,
    PullUnwanted,
    PullWanted,
    SliceHere,
)


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
