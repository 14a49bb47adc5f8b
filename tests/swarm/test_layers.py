"""Layers alone: only what they need comes, and the slice is the one that a whole file gives."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.split_models import split
from tests.swarm.swarms import Scripted, serving
from twd.gguf_tools.header import read_header
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice import write_slice
from twd.pieces.checks import Checks
from twd.pieces.layers import Ranges, layer_ranges
from twd.pieces.making import make_manifest, manifests_for
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import bitmap_of, manifest_of, part_of
from twd.pieces.partial import NoRoomForFile, closed_units, look, missing_bytes
from twd.pieces.parts import PartFolder
from twd.pieces.source import News
from twd.pieces.tree import UNIT
from twd.swarm.door import Door
from twd.swarm.layer_transfer import LayerTransfer
from twd.swarm.library import Library
from twd.swarm.peer import Peer, Peers
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer
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
    manifests: Sequence[Manifest], layers: LayerRange, parts: PartFolder, sources: Sequence[Path]
) -> LayerTransfer:
    """The transfer of some layers; each source is the folder of one machine."""
    peers, urls = Peers(), list[str]()

    def begin(manifest: Manifest, target: Path, ranges: Ranges) -> Transfer:
        transfer = Transfer(manifest, target, ranges=ranges, patience_s=5.0)
        for url in urls:
            transfer.pull.add(Peer(peers, url, manifest.name, manifest.total_size))
        return transfer

    async with AsyncExitStack() as stack:
        stack.push_async_callback(peers.close)
        for folder in sources:
            library = Library()
            stack.callback(library.close)
            for manifest in manifests:
                library.add(Shared.whole(manifest, folder / manifest.filename))
            urls.append(await stack.enter_async_context(serving(library, Door())))
        transfer = LayerTransfer(manifests, layers, parts, begin)
        await transfer.run()
    return transfer


def cut(transfer: LayerTransfer, layers: LayerRange, path: Path) -> bytes:
    """The slice that is cut from what came."""
    return write_slice(transfer.source, layers.first, layers.end, path, head=layers.head).path.read_bytes()


def needed(transfer: LayerTransfer, manifests: Sequence[Manifest], layers: LayerRange, parts: PartFolder) -> int:
    """The bytes that the slice is made of, and the headers."""
    found = layer_ranges([parts.target(one) for one in manifests], manifests, layers)
    return sum(end - begin for ranges in found for begin, end in ranges) + sum(one.data_offset for one in manifests)


@pytest.mark.model
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(LayerRange(first=0, end=10), marks=pytest.mark.thorough),
        MIDDLE,
        pytest.param(LayerRange(first=20, end=30, head=True), marks=pytest.mark.thorough),
    ],
)
async def test_only_what_the_layers_need_comes(
    q4_path: Path, real: Manifest, parts: PartFolder, tmp_path: Path, layers: LayerRange
) -> None:
    transfer = await fetched([real], layers, parts, [q4_path.parent] * 2)
    assert not transfer.target.exists()
    whole = write_slice(q4_path, layers.first, layers.end, tmp_path / "whole.gguf", head=layers.head)
    assert cut(transfer, layers, tmp_path / "mine.gguf") == whole.path.read_bytes()
    assert transfer.counts.fetched_bytes <= 1.02 * needed(transfer, [real], layers, parts) + 2 * UNIT
    assert transfer.progress().total_bytes == transfer.counts.fetched_bytes


@pytest.mark.model
async def test_other_layers_fetch_only_what_is_missing(q4_path: Path, real: Manifest, parts: PartFolder) -> None:
    target = (await fetched([real], MIDDLE, parts, [q4_path.parent])).target
    units = closed_units(target)
    assert units is not None
    again = await fetched([real], MIDDLE, parts, [])
    assert again.counts.fetched_bytes == 0
    wider = await fetched([real], LayerRange(first=8, end=20), parts, [q4_path.parent])
    assert 0 < wider.counts.fetched_bytes <= 4 * UNIT
    found = look(target)
    assert found is not None
    assert found.some
    assert found.have == units.count + round(wider.counts.fetched_bytes / UNIT)


@pytest.mark.model
async def test_layers_of_a_split_model_come_from_the_files_that_hold_them(
    q4_path: Path, parts: PartFolder, tmp_path: Path
) -> None:
    files = split(q4_path, tmp_path / "files", 3)
    manifests = manifests_for(files[0], UNIT)
    assert manifests[0].hash == file_hash(files[0])
    for layers in (LayerRange(first=0, end=6), LayerRange(first=22, end=30, head=True)):
        before = missing_bytes(parts.target(manifests[1]), Checks.of(manifests[1]), [(0, 1 << 40)])
        transfer = await fetched(manifests, layers, parts, [files[0].parent])
        assert transfer.progress().done_bytes == transfer.progress().total_bytes
        assert transfer.counts.fetched_bytes <= 1.02 * needed(transfer, manifests, layers, parts) + 6 * UNIT
        whole = write_slice(files[0], layers.first, layers.end, tmp_path / "whole.gguf", head=layers.head)
        assert cut(transfer, layers, tmp_path / "mine.gguf") == whole.path.read_bytes()
        assert before >= missing_bytes(parts.target(manifests[1]), Checks.of(manifests[1]), [(0, 1 << 40)])
    assert (await fetched(manifests, LayerRange(first=0, end=30, head=True), parts, [files[0].parent])).counts
    assert not any(parts.target(one).exists() for one in manifests), "what came whole stays a part that can be dropped"


@pytest.mark.model
async def test_headers_wait_for_layers_of_the_same_model_that_come(
    q4_path: Path, real: Manifest, parts: PartFolder
) -> None:
    source, gate = Scripted("a", await asyncio.to_thread(q4_path.read_bytes)), asyncio.Event()
    slow, turn = Held(source, gate), asyncio.Lock()

    def begin(manifest: Manifest, target: Path, ranges: Ranges) -> Transfer:
        transfer = Transfer(manifest, target, ranges=ranges)
        transfer.pull.add(slow)
        return transfer

    both = [LayerTransfer([real], layers, parts, begin, turn=turn) for layers in (MIDDLE, None)]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for transfer in both:
            group.create_task(transfer.run())
        await slow.asked.wait()
        gate.set()
    for transfer in both:
        assert transfer.progress().done_bytes == transfer.progress().total_bytes


class Held:
    """A source whose bytes wait for an event."""

    name, defines, most, least = "held", False, 4, 1

    def __init__(self, source: Scripted, gate: asyncio.Event) -> None:
        self._source, self._gate, self.asked = source, gate, asyncio.Event()

    def news(self) -> AsyncIterator[News]:
        return self._source.news()

    async def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        self.asked.set()
        await self._gate.wait()
        async for data in self._source.read(begin, length):
            yield data

    async def close(self) -> None:
        """Nothing to close."""


async def test_manifests_of_several_models_do_not_belong_together(tmp_path: Path, parts: PartFolder) -> None:
    whole = write_sliceable("qwen3", tmp_path)
    files, others = split(whole, tmp_path / "a", 3), split(whole, tmp_path / "b", 2)
    mixed = [*manifests_for(files[0], UNIT)[:2], manifests_for(others[0], UNIT)[1]]
    for manifests in (mixed, manifests_for(files[0], UNIT)[:2], [make_manifest(files[0], UNIT)]):
        with pytest.raises(TwdError, match="do not belong together"):
            await fetched(manifests, MIDDLE, parts, [])


@pytest.mark.model
async def test_parts_keep_to_their_share_of_the_disk(q4_path: Path, real: Manifest, tmp_path: Path) -> None:
    small = PartFolder(tmp_path / "parts", 8 * UNIT)
    with pytest.raises(NoRoomForFile, match=r"swarm\.disk_gib"):
        await fetched([real], MIDDLE, small, [q4_path.parent])
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
    parts.make_room(3 * UNIT, keep=[old])
    assert [one.target for one in parts.contents()] == [old, new]
    assert not middle.parent.exists()
    assert parts.room() == 8 * UNIT
    with pytest.raises(NoRoomForFile):
        parts.make_room(7 * UNIT, keep=[old])


async def test_a_model_that_cannot_be_cut_says_why(tmp_path: Path, parts: PartFolder) -> None:
    path = write_sliceable("llama", tmp_path)
    manifest = make_manifest(path, UNIT, with_inspection=False)
    with pytest.raises(TwdError, match="--no-inspect") as refused:
        await fetched([manifest], MIDDLE, parts, [tmp_path])
    assert refused.value.code is FailureCode.UNSUPPORTED
    manifest = make_manifest(path, UNIT)
    with pytest.raises(TwdError, match="out of range"):
        await fetched([manifest], LayerRange(first=2, end=99), parts, [tmp_path])
    assert read_header(path).data_offset == manifest.data_offset
