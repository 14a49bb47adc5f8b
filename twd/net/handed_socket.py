"""A listening socket that goes from a process to the one that takes its place: who connects meanwhile only waits."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

ASK_S: Final = 2.0
_MARK: Final = b"."


class SocketOffer:
    """Gives a listening socket to whoever asks at a path that only this user, and root, can open."""

    def __init__(self, path: Path, offered: socket.socket, taken: Callable[[], None] = lambda: None) -> None:
        """`taken` is called in another thread, each time after somebody got it."""
        self._path = path
        self._offered = offered
        self._taken = taken
        self._asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def open(self) -> None:
        """Begin; raises OSError where no such path can be made, as when it is too long."""
        self._path.unlink(missing_ok=True)
        self._asked.bind(str(self._path))
        self._path.chmod(0o600)
        owner = self._path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid:
            os.chown(self._path, owner.st_uid, owner.st_gid)
        self._asked.listen(4)
        threading.Thread(target=self._serve, name=f"offer-{self._path.name}", daemon=True).start()

    def close(self) -> None:
        """Offer it no longer."""
        with contextlib.suppress(OSError):
            self._asked.shutdown(socket.SHUT_RDWR)  # ends the thread
        self._asked.close()
        self._offered.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                guest, _ = self._asked.accept()
            except OSError:  # closed
                return
            with guest, contextlib.suppress(OSError):
                guest.settimeout(ASK_S)
                socket.send_fds(guest, [_MARK], [self._offered.fileno()])
                self._taken()


def take_socket(path: Path) -> socket.socket | None:
    """Return the listening socket that is offered at a path; None where nobody offers one."""
    if not hasattr(socket, "recv_fds") or not path.exists():
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(ASK_S)
        try:
            asking.connect(str(path))
            _, handles, _, _ = socket.recv_fds(asking, 1, 1)
        except OSError:
            return None
    return socket.socket(fileno=handles[0]) if handles else None


def is_offered(path: Path) -> bool:
    """Whether somebody offers a socket at a path."""
    found = take_socket(path)
    if found is not None:
        found.close()
    return found is not None
