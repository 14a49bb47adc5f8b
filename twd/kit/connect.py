"""Connects to the bus that the settings name."""

from pathlib import Path

from twd.bus.address import BusAddress, Tls
from twd.bus.nats.bus import NatsBus
from twd.settings.model import BusConfig, Settings

CONNECT_S = 10.0
GATHER_S = {"metrics": 0.25}
"""For each role that reads many messages and may be late: the seconds for which its messages are gathered."""


def address_of(bus: BusConfig, role: str = "") -> BusAddress:
    """Return the broker's address from the settings, with the credentials of this role."""
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
    """Return a connection under the name of this role: the broker may give each role its own permissions."""
    name, gather_s = f"{role}.{node}", GATHER_S.get(role, 0.0)
    return await NatsBus.connect(address_of(settings.bus, role), name=name, wait_s=wait_s, gather_s=gather_s)
