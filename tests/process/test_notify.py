"""The notify protocol, spoken to a real datagram socket."""

import os
import socket
from pathlib import Path

import pytest

from tests.datagrams import listening
from twd.process.notify import NotifySocket


def test_messages_arrive_with_one_field_a_line(tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as manager:
        way = NotifySocket(manager.path)
        assert way.send(READY=1, STATUS="loads\nREADY=1\n  a model")
        assert manager.hear() == [{"READY": "1", "STATUS": "loads READY=1 a model"}]


def test_no_child_inherits_the_way(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    way = NotifySocket.inherited(environment)
    assert way is not None
    assert way.watchdog_s == 30
    assert environment == {"A": "b"}


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "vsock:2:1"}]
)
def test_without_a_socket_there_is_nobody_to_tell(environment: dict[str, str]) -> None:
    assert NotifySocket.inherited(environment) is None


@pytest.mark.parametrize("pid", ["1", "junk"])
def test_a_watchdog_of_another_process_is_not_ours(pid: str) -> None:
    way = NotifySocket.inherited({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": pid})
    assert way is not None
    assert way.watchdog_s == 0


def test_an_abstract_socket_is_found() -> None:
    name = f"twd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        way = NotifySocket.inherited({"NOTIFY_SOCKET": f"@{name}"})
        assert way is not None
        assert way.send(READY=1)
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    way = NotifySocket(str(tmp_path / "nobody"))
    assert not way.send(READY=1)
    assert not way.send(READY=1)
    assert len([record for record in caplog.records if "cannot be told" in record.message]) == 1
