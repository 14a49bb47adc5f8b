"""Runs one chat template in a process with limits: `python -m twd.chat.template_worker`, with a socket as its input.

The first frame is the source; each later one is a conversation, pickled by our parent. The process ends when the parent
closes the socket, and the system ends it when a template takes more than its share, whatever the template does.
"""

import json
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

from twd.chat.template_sandbox import SandboxedTemplate
from twd.wire.failures import TwdError

if sys.platform != "win32":
    import resource

LENGTH: Final = struct.Struct("<I")
TEXT, FACTS, FAILURE = b"T", b"F", b"E"
"""The first byte of an answer."""
CPU_S: Final = 0.9
"""CPU seconds for one rendering, or for compiling the source."""
MEMORY_BYTES: Final = 256 * 1024**2
"""Memory limit of the process in bytes."""


def send(line: socket.socket, body: bytes) -> None:
    """Send one frame."""
    line.sendall(LENGTH.pack(len(body)) + body)


def receive(line: socket.socket, most: int) -> bytes:
    """Receive the next frame; raises EOFError at the end, or for a frame that is too long."""
    (length,) = LENGTH.unpack(_exactly(line, LENGTH.size))
    if length > most:
        raise EOFError(f"a frame of {length} bytes")
    return _exactly(line, length)


def _exactly(line: socket.socket, count: int) -> bytes:
    room, have = bytearray(count), 0
    view = memoryview(room)
    while have < count:
        got = line.recv_into(view[have:])
        if not got:
            raise EOFError("the other side has closed")
        have += got
    return bytes(room)


def limit() -> None:
    """Set limits for memory, files and core dumps."""
    if sys.platform == "win32":
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))


def timed(work: Callable[[], bytes]) -> bytes:
    """Run `work` within CPU_S. The signal has no handler: it ends the process, even inside a C function."""
    watch(CPU_S)
    try:
        return work()
    except TwdError as error:
        return FAILURE + json.dumps([error.code.value, error.failure.message, error.failure.field]).encode()
    finally:
        watch(0)


def watch(seconds: float) -> None:
    """End this process after so many CPU seconds; 0: no limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def serve(line: socket.socket) -> None:
    """Answer requests until the parent closes the socket."""
    source = receive(line, MEMORY_BYTES).decode("utf-8", "surrogatepass")
    templates: list[SandboxedTemplate] = []

    def compiled() -> bytes:
        templates.append(SandboxedTemplate(source))
        return FACTS + json.dumps([sorted(templates[0].words), sorted(templates[0].names)]).encode()

    def rendered() -> bytes:
        return TEXT + templates[0].render(variables, now).encode("utf-8", "surrogatepass")

    send(line, timed(compiled))
    while templates:
        variables, now = pickle.loads(receive(line, MEMORY_BYTES))
        send(line, timed(rendered))


def main() -> None:
    """The main function of the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which drains first
    limit()
    try:
        with socket.socket(fileno=0) as line:
            serve(line)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    main()
