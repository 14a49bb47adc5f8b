"""From settings to an open bus."""

from pathlib import Path

from twd.bus.address import BusAddress, Tls
from twd.bus.nats.bus import NatsBus
from twd.settings.model import BusConfig, Settings

CONNECT_S = 10.0
GATHER_S = {"metrics": 0.25}
"""Who hears every token and is in no hurry: how long its messages gather."""


def address_of(bus: BusConfig, role: str = "") -> BusAddress:
    """Where the settings say the broker is, and how this role signs in there."""
    own_key = str(Path(bus.nkey_dir) / f"{role}.nk") if bus.nkey_dir and role else ""
    return BusAddress(
        url=bus.url,
        token=bus.token,
        user=bus.user,
        password=bus.password,
        nkey_file=bus.nkey_file or own_key,
        creds_file=bus.creds_file,
        tls=Tls(ca=bus.tls.ca, cert=bus.tls.cert, key=bus.tls.key, fingerprint=bus.tls.fingerprint),
    )


async def connect(settings: Settings, role: str, node: str, wait_s: float = CONNECT_S) -> NatsBus:
    """A connection in this role: the broker may give each role its own rights."""
    name, gather_s = f"{role}.{node}", GATHER_S.get(role, 0.0)
    return await NatsBus.connect(address_of(settings.bus, role), name=name, wait_s=wait_s, gather_s=gather_s)
