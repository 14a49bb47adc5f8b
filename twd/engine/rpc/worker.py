"""An RPC worker from our own engine, in a process of its own: `python -m twd.engine.rpc.worker --host H --port N`.

It lends this machine's devices to one client at a time and has no security of its own.
"""

import argparse
import ctypes
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# A worker is idle while windows travel. Threads that sleep in every short wait then wake up late: on a virtual machine
# with links of 20 ms, a pass took 85 ms instead of 70. Unlike a target with its drafter, nothing else computes here.
os.environ["GOMP_SPINCOUNT"] = "10000"  # replaces the value that a parent's engine set for itself

from twd.engine.library import EngineDevice, devices, ggml, listen, require_rpc
from twd.engine.rpc.tensor_cache import TensorCache
from twd.net.keep_alive import notice_lost_peers
from twd.net.ports import listening_socket
from twd.process import platform
from twd.process.core_plan import EngineRole
from twd.process.core_registry import OwnCores

LOOK_S: Final = 0.01


def serve(endpoint: str, threads: int, names: Sequence[str] = (), kept: TensorCache | None = None) -> None:
    """Serve until the process ends. Lends the named devices; else all except the CPU; else the CPU."""
    require_rpc()
    lent = choose(devices(), names)
    handles = (ctypes.c_void_p * len(lent))(*(device.handle for device in lent))
    arguments: list[type] = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    start_server = ggml("ggml_backend_rpc_start_server", arguments, None)
    sys.stderr.write(f"lends {', '.join(device.name for device in lent)} at {endpoint}\n")
    sys.stderr.flush()
    if not platform.IS_WINDOWS:  # there a socket is no file
        threading.Thread(target=_notice_lost_clients, name="find the port", daemon=True).start()
    folder = os.fsencode(kept.folder) if kept else None
    start_server(endpoint.encode(), folder, threads, len(lent), ctypes.cast(handles, ctypes.c_void_p))


def _notice_lost_clients() -> None:
    """Detect lost clients. A worker serves one client at a time, so a lost one would block it for ever."""
    while (port := listening_socket()) is None:
        time.sleep(LOOK_S)
    with port:
        notice_lost_peers(port)


def keep_weights(folder: Path, budget_bytes: int) -> TensorCache | None:
    """Keep large tensors in a folder from now on. None if the folder is not usable; then every load sends them all."""
    try:
        kept = TensorCache(folder, budget_bytes)
    except OSError as error:
        sys.stderr.write(f"keeps no weights: {error}\n")
        return None

    def put_aside() -> None:
        try:
            kept.put_aside()
        except FileNotFoundError:  # somebody removed the folder: so there is nothing that could be read either
            return
        except OSError as error:
            sys.stderr.write(f"what was written to {folder} cannot be taken away, and may be cut short: {error}\n")
            sys.stderr.flush()
            os._exit(1)

    listen(put_aside)

    def check() -> None:
        platform.yield_to_others()
        kept.keep_checking()

    threading.Thread(target=check, name="check weights", daemon=True).start()
    return kept


def choose(found: Sequence[EngineDevice], names: Sequence[str]) -> list[EngineDevice]:
    """The devices to lend: those named; else all except the CPU; else the CPU."""
    if names:
        known = {device.name: device for device in found}
        missing = [name for name in names if name not in known]
        if missing:
            raise SystemExit(f"there is no device {', '.join(missing)}; there are: {', '.join(known)}")
        return [known[name] for name in names]
    return [device for device in found if device.kind != "cpu"] or list(found)


def main() -> None:
    """The program of a child process."""
    platform.hold_on_to_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", action="append", default=[])
    parser.add_argument("--cache", type=Path, help="a folder for weights, so that they need not be sent again")
    parser.add_argument("--cache-bytes", type=int, default=0, help="its size at most; 0: a quarter of the disk")
    given = parser.parse_args()
    kept = keep_weights(given.cache, given.cache_bytes) if given.cache else None
    place = f"{given.host}:{given.port}"
    share = OwnCores(EngineRole.WORKER, "", given.threads).enter(f"rpc {place}")
    serve(place, share.threads, given.device, kept)
    raise SystemExit(f"the worker ended: {place} cannot be listened on, or was closed")


if __name__ == "__main__":
    main()
