"""Lets the running broker take in its list of users anew; connections of those who stay in it go on."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

from twd.bus.address import BusAddress
from twd.bus.base import BusError
from twd.bus.nats.link import LinkError, open_link
from twd.membership.store import MemberStore
from twd.wire.failures import FailureCode, TwdError

TAKEN_S: Final = 20.0
LOOK_S: Final = 0.02
PING_S: Final = 30.0
SERVER: Final = "nats-server"


async def reload_users(store: MemberStore, address: BusAddress) -> None:
    """Ask the broker to read its users again; returns when it has. Raises TwdError if it does not.

    Each list has a user of its own, without rights. Once the newest of them is let in, the broker has that list or a
    later one; what was changed before it was written is in it.
    """
    pid = _server(store.home / "broker" / "nats-server.pid")
    os.kill(pid, signal.SIGHUP)
    probe = replace(address, token="", nkey_file=str(store.probe_file))
    deadline = asyncio.get_running_loop().time() + TAKEN_S
    while not await _is_let_in(probe):
        await asyncio.sleep(LOOK_S)
        if asyncio.get_running_loop().time() < deadline:
            continue
        text = f"the broker did not take the change within {TAKEN_S:g} s; its log (`twd logs broker`) says why"
        raise TwdError(FailureCode.BUS_DOWN, f"{text}. It takes it at its next start")


async def _is_let_in(probe: BusAddress) -> bool:
    try:
        link = await open_link(probe.urls[0], probe, "probe", PING_S, lambda *_: None, lambda _: None)
    except LinkError:  # not yet, or it is busy
        return False
    await link.abort()
    return True


def _server(pid_file: Path) -> int:
    """Return the broker's process; the number alone may be another one's by now."""
    import psutil

    try:
        pid = int(pid_file.read_text())
        if SERVER in psutil.Process(pid).name():
            return pid
    except (OSError, ValueError, psutil.Error):
        pass
    raise BusError("the broker does not run now; it takes the change at its next start")
