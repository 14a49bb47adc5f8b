"""A file from seeder to puller over real connections: whole, in parts, while it comes, and from liars."""

import asyncio
import errno
import os
import random
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from tests.swarm.swarms import Listed, Scripted, answering, model, pulled, seeding, swarm_of
from twd.models.stores import ModelStore
from twd.pieces.checks import Checks
from twd.pieces.manifest import Manifest
from twd.pieces.names import bitmap_of, part_of
from twd.pieces.partial import PartialFile, look
from twd.pieces.tree import UNIT
from twd.swarm.puller import Pull
from twd.swarm.transfer import Transfer, is_here, target_in
from twd.wire.failures import FailureCode, TwdError


async def test_a_file_comes_whole_and_can_be_shared_at_once(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    target = tmp_path / "copy" / "model.gguf"
    target.parent.mkdir()
    async with seeding(path, manifest) as url:
        done = await pulled(manifest, target, [url])
    assert target.read_bytes() == path.read_bytes()
    assert done.pull.counts.fetched_bytes == manifest.total_size
    assert not part_of(target).exists()
    assert not bitmap_of(target).exists()
    assert is_here(target, manifest)
    async with seeding(target, manifest) as url:
        await pulled(manifest, tmp_path / "again", [url])
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


async def test_a_manifest_of_pieces_alone_is_enough(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    old = msgspec.structs.replace(manifest, root="", layer="", sha256="", tensors=[])
    async with seeding(path, old) as url:
        await pulled(old, tmp_path / "copy", [url])
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


async def test_machines_give_what_they_have_while_they_pull(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 24)
    sent: list[int] = []
    async with seeding(path, manifest, sent=sent) as url, swarm_of(manifest, tmp_path, url, 4) as machines:
        await asyncio.gather(*(one.run() for one in machines))
        for one in machines:
            assert one.target.read_bytes() == path.read_bytes()
    assert sum(sent) < 4 * manifest.total_size
    others = [source for one in machines for source in one.pull.counts.by_source if source != url]
    assert others


async def test_a_pull_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 8)
    data = path.read_bytes()
    target = tmp_path / "copy"
    file = PartialFile(target, manifest.name, Checks.of(manifest))
    for index in (0, 3, 8):
        file.put(index, data[index * UNIT : (index + 1) * UNIT])
    file.close()
    async with seeding(path, manifest) as url:
        done = await pulled(manifest, target, [url])
    assert target.read_bytes() == data
    assert done.pull.counts.fetched_bytes == manifest.total_size - 2 * UNIT - 12_345


async def test_only_some_bytes_are_fetched(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 8)
    transfer = Transfer(manifest, tmp_path / "copy", ranges=[(10, 20), (3 * UNIT - 1, 3 * UNIT + 1)])
    source = Scripted("a", path.read_bytes())
    transfer.pull.add(source)
    await transfer.run()
    assert look(tmp_path / "copy") == (3, 9, manifest.root, True)
    assert sum(length for _, length in source.asked) == 3 * UNIT
    again = PartialFile(tmp_path / "copy", manifest.name, Checks.of(manifest))
    assert again.read(3 * UNIT - 1, 2) == path.read_bytes()[3 * UNIT - 1 : 3 * UNIT + 1]
    again.close()


async def test_who_sends_a_wrong_mib_is_banned_and_that_mib_alone_comes_again(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 16)
    listed = Listed()
    transfer = Transfer(manifest, tmp_path / "copy", hooks=listed.hooks)
    transfer.pull.add(Scripted("liar", path.read_bytes(), spoil=lambda index: True))
    transfer.pull.add(Scripted("honest", path.read_bytes()))
    await transfer.run()
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert [told[0] for told in listed.banned] == ["liar"]
    assert "wrong MiB" in listed.banned[0][1]
    counts = transfer.pull.counts
    assert counts.by_source == {"honest": manifest.total_size}


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (2, 3, 4))])
async def test_flipped_bits_from_many_liars(tmp_path: Path, seed: int) -> None:
    path, manifest = model(tmp_path, 30)
    chance = random.Random(seed)
    bad = {name: {unit for unit in range(31) if chance.random() < 0.2} for name in "abcd"}
    listed = Listed()
    transfer = Transfer(manifest, tmp_path / "copy", hooks=listed.hooks)
    for name, units in bad.items():
        transfer.pull.add(Scripted(name, path.read_bytes(), spoil=units.__contains__))
    for name in ("honest 1", "honest 2"):
        transfer.pull.add(Scripted(name, path.read_bytes()))
    await transfer.run()
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert {told[0] for told in listed.banned} <= set(bad)


async def test_liars_alone_bring_nothing_and_are_named(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    transfer = Transfer(manifest, tmp_path / "copy", patience_s=0.2)
    transfer.pull.add(Scripted("liar", path.read_bytes(), spoil=lambda index: index == 2))
    with pytest.raises(TwdError, match="liar sent a wrong MiB 2") as ended:
        await transfer.run()
    assert ended.value.code is FailureCode.WRONG_BYTES
    assert not (tmp_path / "copy").exists()
    assert look(tmp_path / "copy") is not None


async def test_a_hub_defines_what_nobody_knows_and_the_whole_is_judged(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    for promised, right in ((manifest.sha256, True), ("0" * 64, False)):
        target = tmp_path / f"copy-{right}"
        file = PartialFile(target, "hub", Checks.unknown(manifest.total_size))
        pull = Pull(file, sha256=promised, patience_s=0.2)
        pull.add(Scripted("hub", path.read_bytes(), defines=True))
        if right:
            await pull.run()
            assert file.checks.digests == list(manifest.layer_hashes())
        else:
            with pytest.raises(TwdError, match="was promised"):
                await pull.run()
        assert target.exists() is right


async def test_a_peer_defines_nothing(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    file = PartialFile(tmp_path / "copy", "hub", Checks.unknown(manifest.total_size))
    pull = Pull(file, sha256=manifest.sha256, patience_s=0.2)
    pull.add(Scripted("peer", path.read_bytes()))
    with pytest.raises(TwdError, match="nobody has"):
        await pull.run()


async def test_a_source_that_is_away_is_tried_again(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    transfer = Transfer(manifest, tmp_path / "copy")
    source = Scripted("shy", path.read_bytes())
    source.fails = 3
    transfer.pull.add(source)
    await transfer.run()
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


async def test_nobody_has_it(tmp_path: Path) -> None:
    _, manifest = model(tmp_path)
    with pytest.raises(TwdError, match="nobody has the 7 MiB") as ended:
        await pulled(manifest, tmp_path / "copy", ["http://127.0.0.1:9"], patience_s=0.2)
    assert ended.value.code is FailureCode.NO_SOURCE


def have_line(manifest: Manifest) -> bytes:
    units = len(manifest.layer_hashes())
    import base64

    bits = base64.b64encode(b"\xff" * units).decode()
    return msgspec.json.encode({"units": units, "bits": bits}) + b"\n"


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("redirect", "leads elsewhere"),
        ("ignore", "ignores Range"),
        ("more", "sends"),
        ("other", "sends"),
        ("html", "cannot be read|in a way"),
        ("empty", "hung up|sends"),
    ],
)
async def test_a_peer_that_does_not_keep_to_the_rules(tmp_path: Path, how: str, cause: str) -> None:
    path, manifest = model(tmp_path)
    total = manifest.total_size

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/have"):
            return web.Response(body=b"<html>\n" if how == "html" else have_line(manifest))
        if how == "redirect":
            raise web.HTTPFound("http://127.0.0.1:9/elsewhere")
        if how == "ignore":
            return web.Response(body=path.read_bytes())
        begin, end, _ = request.http_range.indices(total)
        shift = 1 if how == "other" else 0
        headers = {"Content-Range": f"bytes {begin + shift}-{end - 1 + shift}/{total}"}
        body = path.read_bytes()[begin:end]
        return web.Response(
            status=206, headers=headers, body=body + b"x" if how == "more" else b"" if how == "empty" else body
        )

    listed = Listed()
    async with answering(answer) as bad, seeding(path, manifest) as good:
        with pytest.raises(TwdError):
            await pulled(manifest, tmp_path / "copy", [bad], listed=listed, patience_s=0.3)
        await pulled(manifest, tmp_path / "copy", [bad, good])
    assert any(__import__("re").search(cause, text) for text in listed.troubles), listed.troubles
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


async def test_a_peer_that_stalls_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, manifest = model(tmp_path)
    monkeypatch.setattr("twd.swarm.core.SILENT_S", 0.1)

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/have"):
            return web.Response(body=have_line(manifest))
        response = web.StreamResponse(status=206)
        begin, end, _ = request.http_range.indices(manifest.total_size)
        response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{manifest.total_size}"
        response.content_length = end - begin
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    async with answering(answer) as bad, seeding(path, manifest) as good:
        done = await pulled(manifest, tmp_path / "copy", [bad, good])
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert done.pull.counts.by_source.keys() == {good}


async def test_a_client_that_reads_nothing_holds_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.swarm.seeder.SLOTS", 1)
    monkeypatch.setattr("twd.swarm.sending.LENT_S", 0.05)
    path, manifest = model(tmp_path, 24)
    begun: list[int] = []
    async with seeding(path, manifest, sent=begun) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(f"GET /v1/swarm/{manifest.root}/file HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")  # it has the slot now, and reads no more
        async with asyncio.timeout(10):
            await pulled(manifest, tmp_path / "copy", [url])
        assert sum(begun) == manifest.total_size, "the other one is still on its way"
        assert len(await reader.readexactly(manifest.total_size)) == manifest.total_size, "it may read again"
        writer.close()
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_where_a_file_goes(tmp_path: Path) -> None:
    assert target_in(tmp_path, "m.gguf") == tmp_path / "m.gguf"
    assert target_in(tmp_path / "other.gguf", "m.gguf") == tmp_path / "other.gguf"
    with pytest.raises(TwdError, match="no folder"):
        target_in(tmp_path / "none" / "m.gguf", "m.gguf")


def test_another_file_of_that_name_stays(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    other = tmp_path / "copy"
    other.write_bytes(b"mine")
    with pytest.raises(TwdError, match="another file"):
        is_here(other, manifest)
    assert other.read_bytes() == b"mine"
    assert is_here(path, manifest)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TwdError, match="folder"):
        is_here(tmp_path / "folder", manifest)


async def test_a_client_that_hangs_up_leaves_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, manifest = model(tmp_path, 32)
    async with seeding(path, manifest) as url:
        for where in ("file", "have", "file"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(f"GET /v1/swarm/{manifest.root}/{where} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await reader.read(100)
            writer.transport.abort()
        await pulled(manifest, tmp_path / "copy", [url])
    assert not caplog.records


@pytest.mark.parametrize(
    ("number", "code", "cause"),
    [(errno.ENOSPC, FailureCode.DISK_FULL, "make room"), (errno.EROFS, FailureCode.BAD_REQUEST, "another DEST")],
)
async def test_a_disk_that_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: FailureCode, cause: str
) -> None:
    path, manifest = model(tmp_path)
    transfer = Transfer(manifest, tmp_path / "copy")
    transfer.pull.add(Scripted("a", path.read_bytes()))
    put = transfer.file.put

    def full(index: int, data: bytes) -> bool:
        if transfer.file.have.count >= 2:
            raise OSError(number, os.strerror(number))
        return put(index, data)

    monkeypatch.setattr(transfer.file, "put", full)
    with pytest.raises(TwdError, match=cause) as ended:
        await transfer.run()
    assert ended.value.code is code
    found = look(tmp_path / "copy")
    assert found is not None
    assert 2 <= found.have < found.units, "a MiB that was on its way when the disk filled up may have been written"


async def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, manifest = model(tmp_path)

    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as read_only:
        read_only.setattr(os, "open", refused)
        with pytest.raises(TwdError, match="may not be written to"):
            Transfer(manifest, tmp_path / "copy")


async def test_what_other_files_of_this_machine_hold_is_copied(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 8)
    store = tmp_path / "store"
    store.mkdir()
    copy = bytearray(path.read_bytes())
    copy[2 * UNIT] ^= 1
    (store / "other-name.gguf").write_bytes(copy)
    transfer = Transfer(manifest, tmp_path / "copy")
    transfer.stores = [ModelStore("Ollama's store", store)]
    source = Scripted("peer", path.read_bytes())
    transfer.pull.add(source)
    await transfer.run()
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert source.asked == [(2 * UNIT, UNIT)]
    counts = transfer.pull.counts
    assert counts.by_source == {"peer": UNIT, "Ollama's store": manifest.total_size - UNIT}
