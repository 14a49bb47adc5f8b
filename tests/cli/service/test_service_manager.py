"""`twd up` as a service manager runs it: real processes, and a real datagram socket that hears how they are."""

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.running import Installed, all_gone
from tests.datagrams import listening
from tests.waiting import alive, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.nats]


@contextmanager
def started(installed: Installed, *services: str) -> "Iterator[subprocess.Popen[str]]":
    """`twd up` in the foreground; a test that fails does not wait for its end."""
    with installed.foreground(*services) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_ready_reload_and_end_are_told(installed: Installed, tmp_path: Path) -> None:
    config = installed.home.parent / "twd.yaml"
    config.write_text("edge: {max_queue: 7}\n")
    with listening(tmp_path / "notify") as manager:
        installed.env |= {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000"}
        with started(installed, "edge") as process:
            manager.wait_for("READY")
            assert status_of(f"http://127.0.0.1:{installed.port}/healthz") == 200
            manager.wait_for("WATCHDOG")
            broker = Path(f"/proc/{installed.pids()['broker']}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in broker

            pids = installed.pids()
            config.write_text("edge: {max_queue: 8}\n")
            done = installed.twd("service", "reload")
            assert (done.returncode, done.stdout.strip()) == (
                0,
                "settings read again; edge takes effect at the next start",
            )
            manager.wait_for("RELOADING")
            config.write_text("edge: {prot: 8}\n")
            done = installed.twd("service", "reload")
            assert done.returncode == 6
            assert "did you mean edge.port" in done.stderr
            assert installed.pids() == pids

            os.kill(process.pid, signal.SIGTERM)
            manager.wait_for("STOPPING")
            assert process.stdout is not None
            process.stdout.read()
            assert process.wait(60) == 0
    all_gone(pids)


@pytest.mark.thorough
def test_no_sign_of_life_once_a_service_is_stopped(installed: Installed, tmp_path: Path) -> None:
    installed.env["TWD_HANG_S"] = "0"  # otherwise it would be replaced within two seconds
    with listening(tmp_path / "notify") as manager:
        installed.env |= {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000"}
        with started(installed) as process:
            manager.wait_for("WATCHDOG")
            pids = installed.pids()
            os.kill(pids["edge"], signal.SIGSTOP)
            manager.wait_for("STATUS", "the API does not answer")
            so_far = len(manager.hear())
            manager.wait_for("STATUS", "edge cannot be heard", since=so_far)
            assert not any("WATCHDOG" in message for message in manager.hear()[so_far:])
            os.kill(process.pid, signal.SIGABRT)  # as a watchdog does
            assert process.stdout is not None
            process.stdout.read()
            process.wait(60)
            for name, pid in pids.items():
                wait_until(lambda pid=pid: not alive(pid), f"{name} ends with its supervisor")  # type: ignore[misc]


def test_a_start_that_cannot_succeed_ends(installed: Installed, tmp_path: Path) -> None:
    config = installed.home.parent / "twd.yaml"
    config.write_text("models:\n  llama:\n    path: /nowhere/llama.gguf\n")
    with listening(tmp_path / "notify") as manager:
        installed.env["NOTIFY_SOCKET"] = manager.path
        done = installed.twd("up")
        assert done.returncode == 7
        assert "speculator.llama cannot start" in done.stdout
        assert not any("READY" in message for message in manager.hear())
