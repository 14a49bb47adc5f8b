"""A listening socket goes from one holder to the next; who connects meanwhile is not refused."""

import socket
import sys
import threading
from pathlib import Path

import pytest

from twd.net.handed_socket import SocketOffer, is_offered, take_socket
from twd.net.ports import listening_socket

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets are not passed on there")


def test_who_connects_while_it_changes_hands_is_answered_by_the_next(tmp_path: Path) -> None:
    taken = threading.Event()
    first = socket.create_server(("127.0.0.1", 0))
    address = first.getsockname()
    offer = SocketOffer(tmp_path / "door", first.dup(), taken.set)
    offer.open()
    assert (tmp_path / "door").stat().st_mode & 0o077 == 0
    kept = take_socket(tmp_path / "door")
    assert kept is not None
    assert taken.wait(10)
    first.close()
    offer.close()
    with kept, socket.create_connection(address, 10) as guest:
        guest.sendall(b"anybody there?")
        answering, _ = kept.accept()
        with answering:
            assert answering.recv(100) == b"anybody there?"


def test_nobody_offers_anything(tmp_path: Path) -> None:
    path = tmp_path / "door"
    assert take_socket(path) is None
    offer = SocketOffer(path, socket.create_server(("127.0.0.1", 0)))
    offer.open()
    assert is_offered(path)
    offer.close()
    assert not path.exists()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    assert take_socket(path) is None, "its owner was killed"
    again = SocketOffer(path, socket.create_server(("127.0.0.1", 0)))
    again.open()
    assert is_offered(path), "what was left there is in nobody's way"
    again.close()


def test_a_path_that_is_too_long_is_an_error_that_can_be_told(tmp_path: Path) -> None:
    offer = SocketOffer(tmp_path / ("x" * 200), socket.create_server(("127.0.0.1", 0)))
    with pytest.raises(OSError, match="too long"):
        offer.open()
    offer.close()


def test_the_socket_of_a_port_is_found_among_others() -> None:
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)) as wanted:
        found = listening_socket(wanted.getsockname()[1])
        assert found is not None
        with found:
            assert found.getsockname() == wanted.getsockname()
        assert listening_socket(1) is None
