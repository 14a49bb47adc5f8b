"""What the system knows of a connection on loopback."""

import sys
from pathlib import Path

import pytest

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="told by /proc alone")
ESTABLISHED = "01"
KEEP_ALIVE = "02"


def is_kept_alive(local: int, remote: int) -> bool:
    """Whether the system asks the peer of this end again and again, by the ports of both."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = (f"0100007F:{local:04X}", f"0100007F:{remote:04X}")
    return any((row[1], row[2]) == ends and row[3] == ESTABLISHED and row[5][:2] == KEEP_ALIVE for row in rows)
