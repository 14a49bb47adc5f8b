"""A service manager's side of the notify protocol: a real datagram socket that hears what a program tells."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 0.05


class Listener:
    """All messages that came, each as its fields."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def hear(self) -> list[dict[str, str]]:
        """Take what has come; returns all that ever came."""
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return self.messages
            self.messages.append(dict(line.split("=", 1) for line in data.decode().splitlines()))

    def wait_for(self, name: str, value: str = "", timeout_s: float = 60.0, since: int = 0) -> dict[str, str]:
        """Wait for a message with this field, `value` within its value."""
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            for message in self.hear()[since:]:
                if name in message and value in message[name]:
                    return message
            time.sleep(LOOK_S)
        raise AssertionError(f"no {name}={value} within {timeout_s:g} s; came: {self.messages[-20:]}")

    async def until(self, name: str, value: str = "") -> dict[str, str]:
        """The same, beside other work."""
        return await asyncio.to_thread(self.wait_for, name, value, 30.0)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


@contextmanager
def listening(path: Path) -> Iterator[Listener]:
    """A socket at this path."""
    listener = Listener(path)
    try:
        yield listener
    finally:
        listener.close()
