"""The small parts: limits, signatures, torrents, who gives what to whom without a seeder."""

import asyncio
import os
from pathlib import Path

import nkeys
import pytest

from tests.swarm.swarms import model, pulled, seeding, swarm_of
from tests.waiting import until
from twd.pieces.page_care import CAN_DROP, let_go, warm_units
from twd.pieces.signing import check_signer, sign
from twd.pieces.torrent import bencode, torrent_of
from twd.pieces.tree import UNIT
from twd.swarm.door import Door, check_bind, host_for
from twd.swarm.library import Library
from twd.swarm.pace import BURST_S, Pace
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer
from twd.wire.failures import TwdError

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
OTHER = nkeys.encode_seed(bytes(range(1, 33)), nkeys.PREFIX_BYTE_USER)


def public(seed: bytes) -> str:
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode())


def test_a_limit_holds_in_the_long_run() -> None:
    now = [0.0]
    pace = Pace(1.0, lambda: now[0])
    for _ in range(100):
        now[0] += pace.wait_s(100_000)
    rate = 100 * 100_000 / now[0]
    assert UNIT <= rate < UNIT * (1 + BURST_S)


def test_without_a_limit_nobody_waits() -> None:
    assert not Pace(0.0, lambda: 0.0).wait_s(1 << 40)


def test_who_signed_a_manifest(tmp_path: Path) -> None:
    _, manifest = model(tmp_path)
    (tmp_path / "seed").write_bytes(SEED)
    signed = sign(manifest, tmp_path / "seed")
    check_signer(signed, [public(SEED)])
    check_signer(manifest, [])
    for wrong, cause in ((manifest, "signed by nobody"), (signed, "not among")):
        with pytest.raises(TwdError, match=cause):
            check_signer(wrong, [public(OTHER)])


@pytest.mark.parametrize("field", ["sha256", "filename", "total_size", "signature"])
def test_a_signature_binds_what_it_signs(tmp_path: Path, field: str) -> None:
    import msgspec

    _, manifest = model(tmp_path)
    (tmp_path / "seed").write_bytes(SEED)
    signed = sign(manifest, tmp_path / "seed")
    other = {"sha256": "0" * 64, "filename": "x", "total_size": 5, "signature": "AAAA"}
    with pytest.raises(TwdError, match="signature does not hold"):
        check_signer(msgspec.structs.replace(signed, **{field: other[field]}), [public(SEED)])


def test_a_file_without_a_seed_is_told(tmp_path: Path) -> None:
    _, manifest = model(tmp_path)
    (tmp_path / "seed").write_bytes(b"no seed")
    for name, cause in (("seed", "no nkey seed"), ("none", "cannot be read")):
        with pytest.raises(TwdError, match=cause):
            sign(manifest, tmp_path / name)


def test_a_torrent_is_private_and_names_the_root(tmp_path: Path) -> None:
    _, manifest = model(tmp_path)
    made = torrent_of(manifest, ["http://127.0.0.1:9080/file"])
    assert b"7:privatei1e" in made
    assert bytes.fromhex(manifest.layer) in made
    assert bencode({b"b": [1, b"x"], b"a": -3}) == b"d1:ai-3e1:bli1e1:xee"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_libtorrent_fetches_from_our_seeder_alone(tmp_path: Path) -> None:
    libtorrent = pytest.importorskip("libtorrent")
    path, manifest = model(tmp_path)
    async with seeding(path, manifest) as url:
        torrent = tmp_path / "model.torrent"
        torrent.write_bytes(torrent_of(manifest, [f"{url}/v1/swarm/{manifest.root}/file/"]))
        quiet = {"enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False}
        session = libtorrent.session({"listen_interfaces": "127.0.0.1:0", **quiet})
        out = tmp_path / "out"
        handle = session.add_torrent({"ti": libtorrent.torrent_info(str(torrent)), "save_path": str(out)})
        async with asyncio.timeout(30):
            while not handle.status().is_seeding:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
    assert (out / path.name).read_bytes() == path.read_bytes()


def test_where_a_seeder_listens() -> None:
    assert host_for("", "") == "127.0.0.1"
    assert host_for("", "token") == "0.0.0.0"
    assert host_for("10.0.0.1", "token") == "10.0.0.1"
    check_bind("127.0.0.1", "")
    with pytest.raises(TwdError, match="no token is set"):
        check_bind("0.0.0.0", "")


@pytest.mark.parametrize(
    ("remote", "inside"),
    [("192.168.1.7", True), ("::ffff:192.168.1.7", True), ("192.168.2.7", False), ("fe80::1%eth0", False), ("", False)],
)
def test_addresses_that_may_pull(remote: str, inside: bool) -> None:
    door = Door("t", ["192.168.1.0/24"])
    headers = {"Authorization": "Bearer t"}
    if inside:
        door.check(headers, remote)
        return
    with pytest.raises(TwdError, match="allowed_ips"):
        door.check(headers, remote)


async def test_without_the_seeder_all_finish_once_all_bytes_are_out(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 9)
    data = path.read_bytes()
    async with swarm_of(manifest, tmp_path, "http://127.0.0.1:9", 3) as machines:
        for number, one in enumerate(machines):
            for index in range(number, 10, 3):
                one.file.put(index, data[index * UNIT : (index + 1) * UNIT])
                one.pull.sampler.got(index)
        await asyncio.gather(*(one.run() for one in machines))
        assert all(one.target.read_bytes() == data for one in machines)


async def test_what_is_read_for_others_leaves_the_page_cache(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, 4)
    size = manifest.total_size
    with path.open("rb") as file:
        one = file.fileno()
        os.fsync(one)
        let_go(one, 0, size)
        if not CAN_DROP or warm_units(one, size).count:
            pytest.skip("this system keeps in memory what it may forget")
        async with seeding(path, manifest) as url:
            await pulled(manifest, tmp_path / "copy", [url])
            await until(lambda: not warm_units(one, size).count, "all has left the memory")
        os.posix_fadvise(one, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(one, UNIT, 2 * UNIT)
        assert set(warm_units(one, size)) == {2}
        async with seeding(path, manifest) as url:
            await pulled(manifest, tmp_path / "again", [url])
            await until(lambda: warm_units(one, size).count == 1, "what others read has left the memory")
        assert 2 in warm_units(one, size)


async def test_a_file_whose_last_unit_just_came_is_still_shared(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    library = Library()
    transfer = Transfer(manifest, tmp_path / "copy", library=library)
    for index in range(7):
        transfer.file.put(index, path.read_bytes()[index * UNIT : (index + 1) * UNIT])
    os.utime(transfer.file.path, (1, 1))
    assert library.get(manifest.root) is transfer.shared
    transfer.file.finish()
    transfer.shared.settled(transfer.target)
    assert library.get(manifest.root) is transfer.shared
    os.utime(transfer.target, (2, 2))
    with pytest.raises(TwdError, match="changed while it was shared"):
        library.get(manifest.root)
    assert not len(library)
    library.close()


async def test_a_descriptor_in_use_is_closed_when_the_use_ends(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    shared = Shared.whole(manifest, path)
    with shared.in_use():
        shared.close()
        assert os.pread(shared.descriptor, 4, 0) == path.read_bytes()[:4]
    assert shared.descriptor == -1
