"""Machines come back in any order: what is optional is started without, and taken in when it comes."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.running import Installed, all_gone
from tests.waiting import wait_until
from twd.bus.broker import server_binary
from twd.net.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.nats]


class Lists(BaseHTTPRequestHandler):
    """A server with one model."""

    def do_GET(self) -> None:
        known = self.path == "/v1/models"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode())

    def log_message(self, *_: object) -> None:
        """Not to the terminal."""


@contextmanager
def server(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), Lists) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield
        made.shutdown()


def configured(installed: Installed, text: str) -> None:
    (installed.home.parent / "twd.yaml").write_text(text)


def test_a_drafter_and_a_backend_whose_servers_are_away_are_missing_until_they_come(installed: Installed) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    configured(
        installed,
        f"backends: {{other: {{url: '{url}', kind: openai, model_name: m}}}}\n"
        f"drafters: [{{name: d1, url: '{url}', kind: openai, model_name: m}}]\n",
    )
    answer = installed.up("drafter", "relay")
    pids = installed.pids()
    for name in ("drafter.d1", "relay.other"):
        assert answer["processes"][name]["stage"] == "missing"
        assert str(port) in answer["processes"][name]["note"]
    status = installed.twd("status")
    assert status.returncode == 3
    assert status.stdout.count("missing") == 2
    doctor = installed.twd("doctor").stdout
    assert "drafter on" in doctor
    assert "missing: " in doctor
    with server(port):
        wait_until(lambda: installed.state_of("relay")[0] == "ready", "the backend is taken in")
    assert installed.twd("down").returncode == 0
    all_gone(pids)


@pytest.mark.thorough
def test_whoever_wants_all_waits_for_all_and_hears_what_is_missing(installed: Installed) -> None:
    configured(installed, "drafters: [{name: d1, url: 'http://127.0.0.1:9'}]\n")
    done = installed.twd("up", "-d", "--wait", "all", "--timeout", "40")
    assert done.returncode == 7
    assert "not ready within 40 s, drafter.d1 is missing: " in done.stderr
    assert installed.twd("status").returncode == 4


@pytest.mark.thorough
def test_an_outside_broker_may_come_later(installed: Installed, tmp_path: Path) -> None:
    port = free_port()
    installed.env["TWD_BUS_URL"] = f"nats://127.0.0.1:{port}"
    with installed.foreground("metrics") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("waiting for the broker: ") for line in lines)
        with own_broker(port, tmp_path):
            assert any(line.startswith("ready in ") for line in lines)
            process.terminate()
            process.stdout.read()
            assert process.wait(60) == 0


@contextmanager
def own_broker(port: int, folder: Path) -> Iterator[None]:
    argv = [str(server_binary()), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "store")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
