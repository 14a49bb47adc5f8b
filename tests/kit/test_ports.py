"""Free ports are free, and those who listen are told from those who wait."""

import os
import socket
import subprocess
import sys

from tests.waiting import wait_until
from twd.kit.ports import free_port, listening_below

LISTENS = "import socket, time; held = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"


def test_a_free_port_can_be_had() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as held:
        assert held.getsockname()[1] > 0


def test_only_those_that_take_connections_are_found() -> None:
    scripts = ("import time; time.sleep(60)", LISTENS.format(port=free_port()))
    waiting, listening = started = [subprocess.Popen([sys.executable, "-S", "-c", script]) for script in scripts]
    try:
        wait_until(lambda: listening.pid in listening_below([os.getpid()]), "it listens")
        assert waiting.pid not in listening_below([os.getpid()])
        listening.kill()
        listening.wait()
        assert listening.pid not in listening_below([os.getpid()])
    finally:
        for one in started:
            one.kill()
            one.wait()
