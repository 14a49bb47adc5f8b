"""Who gets in: keys, each for a role on a machine."""

from pathlib import Path

import pytest

from tests.bus.deployed import NODES, Deployment
from tests.bus.permissions.users import nats
from twd.bus.address import BusAddress
from twd.bus.base import BusError
from twd.bus.nats.bus import NatsBus
from twd.bus.permissions import ROLE_NAMES
from twd.wire.failures import FailureCode


@nats
async def test_without_a_key_or_with_an_unknown_one_nobody_gets_in(
    deployment: tuple[Deployment, int], tmp_path: Path
) -> None:
    import nkeys

    files, port = deployment
    (tmp_path / "stranger.nk").write_bytes(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    known = files.address("edge", port)
    for address in (
        BusAddress(known.url, nkey_file=str(tmp_path / "stranger.nk"), tls=known.tls),
        BusAddress(known.url, token="guess", tls=known.tls),
        BusAddress(known.url, user="edge", password="guess", tls=known.tls),
        BusAddress(known.url, tls=known.tls),
    ):
        with pytest.raises(BusError, match="refuses to let us in") as refused:
            await NatsBus.connect(address, wait_s=60)
        assert refused.value.code is FailureCode.UNAUTHENTICATED


@nats
async def test_a_file_that_is_no_key_is_told(deployment: tuple[Deployment, int], tmp_path: Path) -> None:
    files, port = deployment
    (tmp_path / "bad.nk").write_text("SUNONSENSE")
    known = files.address("edge", port)
    with pytest.raises(BusError, match=r"bus\.nkey_file"):
        await NatsBus.connect(BusAddress(known.url, nkey_file=str(tmp_path / "bad.nk"), tls=known.tls))


def test_keys_are_for_a_machine(deployment: tuple[Deployment, int]) -> None:
    files, _ = deployment
    seeds = {path.read_bytes() for node in NODES for path in (files.folder / "keys" / node).iterdir()}
    assert len(seeds) == len(NODES) * len(ROLE_NAMES)
    assert all((files.folder / "keys" / node).stat().st_mode & 0o077 == 0 for node in NODES)
