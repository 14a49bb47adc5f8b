"""Connects to the bus that the settings name."""

from pathlib import Path

from twd.bus.address import BusAddress, Tls
from twd.bus.base import BusError
from twd.bus.nats.bus import NatsBus
from twd.settings.model import BusConfig, Settings
from twd.wire.failures import FailureCode

CONNECT_S = 10.0
GATHER_S = {"metrics": 0.25}
"""For each role that reads many messages and may be late: the seconds for which its messages are gathered."""
_NO_KEY = (
    "this machine may not do that: it has no key of the role {role} in {folder}. Do it on the machine of the broker, "
    "or join with a token that is for more (`twd token add --role ROLE`)"
)


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
    _check_key(settings.bus.nkey_dir, role)
    return await NatsBus.connect(address_of(settings.bus, role), name=name, wait_s=wait_s, gather_s=gather_s)


def _check_key(folder: str, role: str) -> None:
    """Raise a BusError that says what to do, where a folder of keys has none of this role."""
    keys = Path(folder)
    if folder and keys.is_dir() and not (keys / f"{role}.nk").exists():
        raise BusError(_NO_KEY.format(role=role, folder=folder), FailureCode.FORBIDDEN)
