"""Layers alone: only what they need comes, and the slice is the one that a whole file gives."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.swarm.swarms import seeding
from twd.gguf_tools.header import read_header
from twd.gguf_tools.slice import write_slice
from twd.pieces.layers import layer_ranges, partial_source
from twd.pieces.making import make_manifest
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import bitmap_of, manifest_of, part_of
from twd.pieces.partial import NoRoomForFile, closed_units, look
from twd.pieces.parts import PartFolder
from twd.pieces.tree import UNIT
from twd.swarm.peer import Peer, Peers
from twd.swarm.transfer import Transfer, WantedLayers
from twd.wire.failures import FailureCode, TwdError
from twd.wire.swarm import LayerRange

MIDDLE = LayerRange(first=9, end=20)


@pytest.fixture
def parts(tmp_path: Path) -> PartFolder:
    return PartFolder(tmp_path / "parts")


@pytest.fixture(scope="module")
def real(q4_path: Path) -> Manifest:
    return make_manifest(q4_path, UNIT)


async def fetched(
    manifest: Manifest, layers: LayerRange, parts: PartFolder, sources: Sequence[Path]
) -> tuple[Transfer, Path]:
    """The transfer of some layers, and the target of its partial file."""
    peers, target = Peers(), parts.target(manifest)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(peers.close)
        transfer = Transfer(manifest, target, layers=WantedLayers(layers, parts), patience_s=5.0)
        for path in sources:
            url = await stack.enter_async_context(seeding(path, manifest))
            transfer.pull.add(Peer(peers, url, manifest.name, manifest.total_size))
        await transfer.run()
    return transfer, target


@pytest.mark.model
@pytest.mark.parametrize("layers", [LayerRange(first=0, end=10), MIDDLE, LayerRange(first=20, end=30, head=True)])
async def test_only_what_the_layers_need_comes(
    q4_path: Path, real: Manifest, parts: PartFolder, tmp_path: Path, layers: LayerRange
) -> None:
    transfer, target = await fetched(real, layers, parts, [q4_path, q4_path])
    assert not target.exists()
    source = partial_source(target, real)
    mine = write_slice(source, layers.first, layers.end, tmp_path / "mine.gguf", head=layers.head)
    whole = write_slice(q4_path, layers.first, layers.end, tmp_path / "whole.gguf", head=layers.head)
    assert mine.path.read_bytes() == whole.path.read_bytes()
    need = sum(end - begin for begin, end in layer_ranges(target, real, layers))
    assert transfer.pull.counts.fetched_bytes <= 1.02 * need + real.data_offset + 2 * UNIT
    assert transfer.pull.progress().total_bytes == transfer.pull.counts.fetched_bytes


@pytest.mark.model
async def test_other_layers_fetch_only_what_is_missing(q4_path: Path, real: Manifest, parts: PartFolder) -> None:
    _, target = await fetched(real, MIDDLE, parts, [q4_path])
    units = closed_units(target)
    assert units is not None
    again, _ = await fetched(real, MIDDLE, parts, [])
    assert again.pull.counts.fetched_bytes == 0
    wider, _ = await fetched(real, LayerRange(first=8, end=20), parts, [q4_path])
    assert 0 < wider.pull.counts.fetched_bytes <= 4 * UNIT
    found = look(target)
    assert found is not None
    assert found.some
    assert found.have == units.count + round(wider.pull.counts.fetched_bytes / UNIT)


@pytest.mark.model
async def test_parts_keep_to_their_share_of_the_disk(q4_path: Path, real: Manifest, tmp_path: Path) -> None:
    small = PartFolder(tmp_path / "parts", 8 * UNIT)
    with pytest.raises(NoRoomForFile, match=r"swarm\.disk_gib"):
        await fetched(real, MIDDLE, small, [q4_path])
    assert [one.target.name for one in small.contents()] == [real.filename]


def kept(parts: PartFolder, name: str, mib: int, at: float, tmp_path: Path) -> Path:
    """A partial file that somebody left."""
    import os

    from twd.pieces.checks import Checks
    from twd.pieces.partial import PartialFile

    data = os.urandom(mib * UNIT)
    (tmp_path / name).write_bytes(data)
    manifest = make_manifest(tmp_path / name, UNIT)
    target = parts.target(manifest)
    write_manifest(manifest_of(target), manifest)
    file = PartialFile(target, manifest.name, Checks.of(manifest), some=True)
    for index in range(mib):
        file.put(index, data[index * UNIT : (index + 1) * UNIT])
    file.close()
    for path in (part_of(target), bitmap_of(target)):
        os.utime(path, (at, at))
    return target


def test_the_longest_unused_part_goes_first(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "parts", 8 * UNIT)
    old, middle, new = (kept(parts, name, 2, at, tmp_path) for name, at in (("c", 10.0), ("a", 20.0), ("b", 30.0)))
    assert [one.target for one in parts.contents()] == [old, middle, new]
    parts.make_room(3 * UNIT, keep=old)
    assert [one.target for one in parts.contents()] == [old, new]
    assert not middle.parent.exists()
    assert parts.room() == 8 * UNIT
    with pytest.raises(NoRoomForFile):
        parts.make_room(7 * UNIT, keep=old)


async def test_a_model_that_cannot_be_cut_says_why(tmp_path: Path, parts: PartFolder) -> None:
    path = write_sliceable("llama", tmp_path)
    manifest = make_manifest(path, UNIT, with_inspection=False)
    with pytest.raises(TwdError, match="--no-inspect") as refused:
        await fetched(manifest, MIDDLE, parts, [path])
    assert refused.value.code is FailureCode.UNSUPPORTED
    manifest = make_manifest(path, UNIT)
    with pytest.raises(TwdError, match="out of range"):
        await fetched(manifest, LayerRange(first=2, end=99), parts, [path])
    assert read_header(path).data_offset == manifest.data_offset
