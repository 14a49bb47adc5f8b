"""Machines that a benchmark plays: network namespaces on one bridge, each behind a link of a given rate. Needs root."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NET = "10.77.0"
PREFIX = "twdsw"


def run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def address(number: int) -> str:
    """Of one machine, from 0."""
    return f"{NET}.{number + 1}"


def inside(number: int, command: Sequence[str]) -> list[str]:
    """A command as it runs on one machine."""
    return ["ip", "netns", "exec", f"{PREFIX}{number}", *command]


@contextmanager
def machines(count: int, mb_s: float, delay_ms: float = 0.0) -> Iterator[None]:
    """So many machines; both directions of each link carry `mb_s` million bytes a second."""
    try:
        run("ip", "netns", "add", f"{PREFIX}x")
        run("ip", "-n", f"{PREFIX}x", "link", "add", "bridge0", "type", "bridge")
        run("ip", "-n", f"{PREFIX}x", "link", "set", "bridge0", "up")
        for number in range(count):
            _machine(number, mb_s)
        yield
    finally:
        for number in range(count):
            run("ip", "netns", "del", f"{PREFIX}{number}", check=False)
        run("ip", "netns", "del", f"{PREFIX}x", check=False)


def _machine(number: int, mb_s: float) -> None:
    own, port = f"{PREFIX}{number}", f"p{number}"
    run("ip", "netns", "add", own)
    run("ip", "link", "add", "eth0", "netns", own, "type", "veth", "peer", "name", port, "netns", f"{PREFIX}x")
    run("ip", "-n", f"{PREFIX}x", "link", "set", port, "master", "bridge0", "up")
    run("ip", "-n", own, "addr", "add", f"{address(number)}/24", "dev", "eth0")
    run("ip", "-n", own, "link", "set", "eth0", "up")
    run("ip", "-n", own, "link", "set", "lo", "up")
    if mb_s:
        limit(number, mb_s)


def limit(number: int, mb_s: float) -> None:
    """Both directions of a machine's link carry so many million bytes a second."""
    rate = ("rate", f"{mb_s * 8:g}mbit", "burst", "128kb", "latency", "100ms")
    run(*inside(number, ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *rate]))
    run("ip", "netns", "exec", f"{PREFIX}x", "tc", "qdisc", "add", "dev", f"p{number}", "root", "tbf", *rate)


def sent_bytes(number: int) -> int:
    """What a machine has put on its link so far."""
    told = subprocess.run(
        inside(number, ["cat", "/sys/class/net/eth0/statistics/tx_bytes"]), capture_output=True, text=True, check=True
    )
    return int(told.stdout)
