"""What a fork server does: it imports what processes of this program need, and forks them.

It has one thread, runs no event loop and opens no file or device, so that a fork of it is as good as a start. Each
child is forked twice, and the one in between ends at once: so it belongs to whoever asked for it, and outlives us.
"""

import contextlib
import faulthandler
import gc
import os
import socket
import sys
from collections.abc import MutableMapping, Sequence
from importlib import import_module
from typing import Final, NoReturn

import msgspec

from twd.process import platform
from twd.process.fork_server import ForkReply, ForkRequest, ForkServerHandle, PreloadRequest

USUAL: Final = ("twd.cli.app", "twd.cli.run", "twd.kit.connect", "twd.process.run_service")
SERVICES: Final = {
    "agent": ("twd.agent.service", "twd.agent.rest.server"),
    "coordinator": ("twd.coordinator.service",),
    "drafter": ("twd.drafter.native",),
    "edge": ("twd.edge.service",),
    "metrics": ("twd.metrics.service",),
    "relay": ("twd.backends.factory",),
    "speculator": (
        "twd.speculator.targets.native",
        "twd.speculator.targets.pool_rpc",
        "twd.speculator.targets.pool_ring",
    ),
    "stage": ("twd.stage.native",),
}
"""What `twd run` imports for each before it can begin."""
PID_BYTES: Final = 32
GO: Final = b"."


def fork_off() -> ForkServerHandle | None:
    """Fork off a fork server; call this before the first thread and the event loop. None where the system has none.

    In each forked process this runs what its command line says, and never returns.
    """
    if not platform.can_adopt():
        return None
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    sys.stdout.flush()
    if pid := os.fork():
        theirs.close()
        return ForkServerHandle(ours, pid)
    ours.close()
    return live(theirs, {platform.PARENT_VARIABLE: str(parent)})


def live(orders: socket.socket, environment: MutableMapping[str, str]) -> NoReturn:
    """What a fork server does until nobody asks it any more, and what each process does that it forks."""
    try:
        os.setsid()
        platform.hold_on_to_parent(environment)
        write_to(os.devnull)
        birth = serve(orders)
    except BaseException:  # noqa: BLE001 - whoever asks hears no answer, and starts processes in the usual way
        os._exit(1)
    if birth is None:
        os._exit(0)
    from twd.cli import main

    sys.argv = ["twd", *birth.arguments]
    main()
    sys.exit()


def serve(orders: socket.socket) -> ForkRequest | None:
    """Do what is asked until nobody can ask any more; in each process that is born: what it shall be."""
    be_called("twd fork server")
    gc.disable()  # nothing is garbage that an import leaves
    faulthandler.enable()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's library would start others while it is loaded
    import_for(("run", ""))
    lines = orders.makefile("rb")
    while line := lines.readline():
        order = msgspec.json.decode(line, type=ForkRequest | PreloadRequest)
        problem = import_for(order.arguments)
        if problem or isinstance(order, PreloadRequest):
            answer(orders, ForkReply(problem=problem))
            continue
        here, there = socket.socketpair()
        if fork_twice():
            here.close()
            os.close(orders.detach())
            become(order, there)
            return order
        there.close()
        with here:
            pid = int(here.recv(PID_BYTES) or b"0")
            answer(orders, ForkReply(pid=pid) if pid else ForkReply(problem="it could not be forked"))
            if pid and lines.readline():
                with contextlib.suppress(BrokenPipeError):  # it was ended meanwhile
                    here.sendall(GO)
    return None


def import_for(arguments: Sequence[str]) -> str:
    """Import what `twd ARGUMENTS` will; why this cannot be done, if it cannot."""
    names = (*USUAL, *SERVICES.get(arguments[1], ())) if len(arguments) > 1 and arguments[0] == "run" else USUAL
    try:
        for name in names:
            import_module(name)
    except Exception as error:  # noqa: BLE001 - told; the process says it itself when it starts in the usual way
        return repr(error)
    return ""


def answer(orders: socket.socket, done: ForkReply) -> None:
    """Tell whoever asked."""
    orders.sendall(msgspec.json.encode(done) + b"\n")


def fork_twice() -> bool:
    """Whether this is the new process; the other one goes on when it has got its parent."""
    gc.freeze()  # a collector that looks through what all share would make it everybody's own
    if between := os.fork():
        os.waitpid(between, 0)
        return False
    if os.fork():
        os._exit(0)
    return True


def become(birth: ForkRequest, fork_server: socket.socket) -> None:
    """A process with a session, a log, variables and a name of its own; it ends here if nobody wants it any more."""
    os.setsid()
    with fork_server:
        fork_server.sendall(str(os.getpid()).encode())
        if not fork_server.recv(len(GO)):
            os._exit(1)
    write_to(birth.log)
    os.environ.clear()
    os.environ.update(birth.environment)
    be_called(" ".join(("twd", *birth.arguments)))


def be_called(name: str) -> None:
    """What `ps` and `top` show."""
    from setproctitle import setproctitle

    setproctitle(name)


def write_to(log: str) -> None:
    """From now on what is said goes to this file, and nothing comes in."""
    into = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (into, 1), (into, 2)):
        os.dup2(here, there)
    os.close(into)
    os.close(nothing)


if __name__ == "__main__":
    gc.disable()
    live(socket.socket(fileno=int(sys.argv[1])), os.environ)
