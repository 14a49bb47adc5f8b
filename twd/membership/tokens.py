"""Makes join tokens for the installation that runs here."""

import asyncio
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from twd.bus.address import BusAddress, Tls
from twd.bus.join import ADDRESSES_MAX, JoinToken
from twd.bus.seeds import draw_raw
from twd.membership.core import TokenRecord, with_token
from twd.membership.reload import reload_users
from twd.membership.store import MemberStore
from twd.net.addresses import EVERYWHERE, bare_host, bracketed, is_loopback, told_host
from twd.process.home import RunningInstance

LINK_LOCAL: Final = ("169.254.", "fe80:")


class NewToken(NamedTuple):
    """A token, and what is kept of it."""

    token: JoinToken
    record: TokenRecord


def new_token(
    store: MemberStore,
    instance: RunningInstance,
    listens: str,
    roles: Sequence[str],
    ttl_s: int,
    uses: int,
    hosts: Sequence[str] = (),
) -> NewToken:
    """Make a token, keep its public half, and let the broker take it in. `hosts`: where others reach this machine."""
    port = urlsplit(instance.bus_url).port
    addresses = [f"{bracketed(bare_host(host))}:{port}" for host in hosts or own_hosts(listens)]
    token = JoinToken(tuple(addresses[:ADDRESSES_MAX]), instance.bus_fingerprint, draw_raw())
    now_ms = time.time_ns() // 1_000_000
    record = TokenRecord(
        public_key=token.public_key,
        roles=tuple(dict.fromkeys(roles)),
        created_ms=now_ms,
        expires_ms=now_ms + ttl_s * 1000,
        uses=uses,
    )
    store.change(partial(with_token, token=record, now_ms=now_ms))
    asyncio.run(reload_users(store, BusAddress(instance.bus_url, tls=Tls(fingerprint=instance.bus_fingerprint))))
    return NewToken(token, record)


def own_hosts(listens: str) -> list[str]:
    """Return the addresses at which others may reach a server that listens there, the likeliest first."""
    if listens not in EVERYWHERE:
        return [bare_host(listens)]
    import psutil

    families = (socket.AF_INET, socket.AF_INET6) if ":" in listens else (socket.AF_INET,)
    own = [one.address for many in psutil.net_if_addrs().values() for one in many if one.family in families]
    far = [host for host in own if not is_loopback(host) and not host.startswith(LINK_LOCAL) and "%" not in host]
    return list(dict.fromkeys([told_host(listens), *far]))
