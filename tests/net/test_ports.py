"""Free ports are free, and those who listen are told from those who wait."""

import os
import socket
import subprocess
import sys

import pytest

from twd.net.ports import PORTS, free_port, free_ports, listening_below, listens_on

WAITS = "import sys; print('here', flush=True); sys.stdin.read()"
LISTENS = """
import socket, sys
held = socket.create_server(("127.0.0.1", 0))
print(held.getsockname()[1], flush=True)
sys.stdin.read()
"""


def started(script: str) -> tuple["subprocess.Popen[str]", str]:
    """A program that runs until its input ends, and the line that it says when it is as far."""
    argv = [sys.executable, "-S", "-c", script]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_free_port_can_be_had_and_one_that_is_taken_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as held:
        assert free_port() != held.getsockname()[1]


def test_a_port_is_not_given_twice_while_nobody_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    few = range(PORTS.start, PORTS.start + 64)
    monkeypatch.setattr("twd.net.ports.PORTS", few)
    given = [free_port() for _ in range(20)]
    assert len(set(given)) == 20


def test_a_free_port_is_none_that_an_outgoing_connection_may_get() -> None:
    ports = set(free_ports(20))
    assert len(ports) == 20
    assert ports <= set(PORTS)


def test_a_port_that_is_promised_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.net.ports.PORTS", range(20_000, 20_002))
    monkeypatch.setattr("twd.net.ports.PORT_TRIES", 2)
    assert free_port(promised=range(20_000, 20_002)) not in range(20_000, 20_002)


def test_only_those_that_take_connections_are_found() -> None:
    waiting, _ = started(WAITS)
    listening, told = started(LISTENS)
    port = int(told)
    with waiting, listening:
        found = listening_below([os.getpid()])
        assert (listening.pid in found, waiting.pid in found) == (True, False)
        assert (listens_on(listening.pid, port), listens_on(waiting.pid, port)) == (True, False)
        assert not listens_on(listening.pid, port + 1)
        listening.kill()
        listening.wait()
        assert not listens_on(listening.pid, port)
        assert listening.pid not in listening_below([os.getpid()])
