"""Free ports are free, and those who listen are told from those who wait."""

import os
import socket
import subprocess
import sys

from tests.waiting import wait_until
from twd.net.ports import free_port, listening_below, listens_on

LISTENS = "import socket, time; held = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"


def test_a_free_port_can_be_had() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as held:
        assert held.getsockname()[1] > 0


def test_only_those_that_take_connections_are_found() -> None:
    port = free_port()
    scripts = ("import time; time.sleep(60)", LISTENS.format(port=port))
    waiting, listening = started = [subprocess.Popen([sys.executable, "-S", "-c", script]) for script in scripts]
    try:
        wait_until(lambda: listening.pid in listening_below([os.getpid()]), "it listens")
        assert waiting.pid not in listening_below([os.getpid()])
        assert (listens_on(listening.pid, port), listens_on(waiting.pid, port)) == (True, False)
        assert not listens_on(listening.pid, port + 1)
        listening.kill()
        listening.wait()
        assert not listens_on(listening.pid, port)
        assert listening.pid not in listening_below([os.getpid()])
    finally:
        for one in started:
            one.kill()
            one.wait()
