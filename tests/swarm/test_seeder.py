"""The seeder: what it gives to whom, and what it never does."""

import os
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession

from tests.swarm.swarms import model, pulled, seeding, serving
from twd.pieces.tree import UNIT
from twd.swarm.door import Door
from twd.swarm.library import Library
from twd.swarm.peer import Peers
from twd.swarm.transfer import Transfer
from twd.wire.failures import TwdError


async def test_the_addresses_of_one_file(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    data = path.read_bytes()
    async with seeding(path, manifest) as url, ClientSession() as client:

        async def get(where: str, **headers: str) -> tuple[int, bytes]:
            async with client.get(url + where, headers=headers) as answer:
                return answer.status, await answer.read()

        assert await get("/bitfield") == (200, msgspec.json.encode({"have": list(range(7))}))
        assert await get("/pieces/6") == (200, data[6 * UNIT :])
        assert await get("/pieces/0", Range="bytes=5-9") == (206, data[5:10])
        for wrong in ("/pieces/7", "/pieces/-1", "/pieces/x", "/pieces/99999999999999", "/v1/swarm/none/file"):
            assert (await get(wrong))[0] == 404
        health = msgspec.json.decode((await get("/health"))[1])
        assert (health["status"], health["total_pieces"], health["completion_pct"]) == ("ok", 7, 100.0)
        whole = f"/v1/swarm/{manifest.root}/file"
        assert await get(whole) == (200, data)
        assert await get(whole, Range="bytes=-10") == (206, data[-10:])
        assert await get(whole, Range=f"bytes={len(data)}-") == (
            416,
            (await get(whole, Range=f"bytes={len(data)}-"))[1],
        )
        assert (await get(whole, Range="bytes=x"))[0] == 416
        assert msgspec.json.decode((await get("/v1/swarm"))[1])["files"][0]["root"] == manifest.root


async def test_unchecked_bytes_are_never_served(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    library = Library()
    transfer = Transfer(manifest, tmp_path / "copy", library=library)
    transfer.file.put(2, path.read_bytes()[2 * UNIT : 3 * UNIT])
    os.pwrite(transfer.file.descriptor, b"unchecked", 0)
    async with serving(library, Door()) as url, ClientSession() as client:
        for begin, status in ((2 * UNIT, 206), (0, 404), (3 * UNIT - 5, 404)):
            headers = {"Range": f"bytes={begin}-{begin + 9}"}
            async with client.get(f"{url}/v1/swarm/{manifest.root}/file", headers=headers) as answer:
                assert answer.status == status
        async with client.get(f"{url}/bitfield") as answer:
            assert await answer.json() == {"have": [2]}
    transfer.file.close()
    library.close()


async def test_a_file_that_changes_is_served_no_more(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    async with seeding(path, manifest) as url:
        with path.open("r+b") as file:
            file.write(b"other bytes")
        os.utime(path, (1, 1))
        with pytest.raises(TwdError, match="nobody has"):
            await pulled(manifest, tmp_path / "copy", [url], patience_s=0.2)


@pytest.mark.parametrize("token", ["", "wrong", "tökén-ß", "x" * 5000])
async def test_a_wrong_token_is_refused_with_the_cause(tmp_path: Path, token: str) -> None:
    path, manifest = model(tmp_path)
    async with seeding(path, manifest, Door("right-ü")) as url:
        wrong, right = Peers(token), Peers("right-ü")
        with pytest.raises(TwdError, match="token"):
            await wrong.manifest(f"{url}/manifest")
        assert (await right.manifest(f"{url}/manifest")).root == manifest.root
        await wrong.close()
        await right.close()


async def test_a_forbidden_address_and_a_web_page_are_refused(tmp_path: Path) -> None:
    path, manifest = model(tmp_path)
    async with seeding(path, manifest, Door("t", ["10.0.0.0/8"])) as url:
        peers = Peers("t")
        with pytest.raises(TwdError, match="allowed_ips"):
            await peers.manifest(f"{url}/manifest")
        await peers.close()
    async with seeding(path, manifest) as url, ClientSession() as client:
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            async with client.get(f"{url}/manifest", headers=headers) as answer:
                assert answer.status == 403
