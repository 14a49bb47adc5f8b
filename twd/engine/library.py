"""The door to llama.cpp: started once, its messages routed to logging, its devices listed."""

import ctypes
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from twd.engine.variables import set_variables  # and sets them, before llama.cpp is loaded
from twd.lean_import import bare
from twd.wire.failures import FailureCode, TwdError

with bare("llama_cpp"):
    from llama_cpp import llama_cpp as llama

__all__ = [
    "FOLDER",
    "LIBRARIES",
    "EngineDevice",
    "device_named",
    "devices",
    "find_ggml",
    "ggml",
    "last_errors",
    "leave_on_abort_with",
    "listen",
    "llama",
    "require_rpc",
    "start",
    "supports_rpc",
    "version",
]

FOLDER = Path(llama.__file__).parent
"""Where the bindings are."""
LIBRARIES = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or FOLDER / "lib")
"""Where they load llama.cpp from."""
_log = logging.getLogger("twd.engine.llama")
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.DEBUG, 4: logging.WARNING}
_CONTINUATION = 5
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_errors: deque[str] = deque(maxlen=8)


_STOPPED = ("failed with error 1", "compute status: 1", "failed to decode, ret = 2")
"""How llama.cpp complains of a pass that we stopped ourselves."""


class _LogLine:
    """llama.cpp logs in pieces; this joins them to lines."""

    def __init__(self) -> None:
        self.level = logging.DEBUG
        self.text = ""

    def add(self, level: int, piece: str) -> None:
        if level != _CONTINUATION:
            self.level = _LEVELS.get(level, logging.DEBUG)
        self.text += piece
        while "\n" in self.text:
            line, self.text = self.text.split("\n", 1)
            self._emit(line.strip())

    def _emit(self, line: str) -> None:
        if not line:
            return
        if line.endswith(_STOPPED):
            self.level = logging.DEBUG
        if self.level >= logging.WARNING:
            _errors.append(line)
        _log.log(self.level, "%s", line)


_line = _LogLine()
_listeners: list[Callable[[], None]] = []


def listen(heard: Callable[[], None]) -> None:
    """Call this after each message of llama.cpp, in the very thread that gave it, which waits meanwhile."""
    _listeners.append(heard)


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    _line.add(level, text.decode("utf-8", "replace"))
    for heard in _listeners:
        heard()


@dataclass(slots=True)
class _Abort:
    """What this process does when llama.cpp gives up."""

    code: int = 70
    level: int = logging.CRITICAL


_abort = _Abort()


def leave_on_abort_with(code: int) -> None:
    """The exit code of this process when llama.cpp gives up: over a pool that means that a worker is gone, which is
    nothing unheard of."""
    _abort.code, _abort.level = code, logging.WARNING


def _leave_on_abort(reason: bytes) -> None:
    """llama.cpp gives up: say why and leave at once, instead of waiting for a debugger."""
    _log.log(_abort.level, "llama.cpp gave up: %s", reason.decode("utf-8", "replace").strip())
    logging.shutdown()
    os._exit(_abort.code)


_on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_leave_on_abort)


@cache
def start() -> None:
    """Bring llama.cpp up, once for this process; it may have been loaded in one of which this one was forked."""
    set_variables()
    llama.llama_log_set(_on_log, None)
    llama.llama_backend_init()
    ggml("ggml_set_abort_callback", [type(_on_abort)], ctypes.c_void_p)(_on_abort)


@cache
def version() -> str:
    """Of the bindings, by their own word; reading it is quicker than running them all."""
    found = _VERSION.search((FOLDER / "__init__.py").read_text("utf-8"))
    return found[1] if found else "unknown"


def last_errors() -> str:
    """What llama.cpp complained about most recently, newest last; reading empties it."""
    text = "; ".join(_errors)
    _errors.clear()
    return text


def supports_rpc() -> bool:
    """Whether this build of llama.cpp can use workers on other machines."""
    return bool(llama.llama_supports_rpc())


def require_rpc() -> None:
    """Fail with advice where llama.cpp was built without RPC (a cached wheel ignores build flags)."""
    if not supports_rpc():
        raise TwdError(
            FailureCode.UNSUPPORTED,
            "this build of llama.cpp has no RPC; rebuild llama-cpp-python with CMAKE_ARGS=-DGGML_RPC=ON "
            "and without the wheel cache",
        )


@cache
def _shared_objects() -> tuple[ctypes.CDLL, ...]:
    """The ggml libraries under the very names that llama.cpp loaded: another name would map a second copy."""
    names = ("libggml-base", "libggml", "libggml-cpu", "libggml-rpc")
    found = (LIBRARIES / f"{name}{end}" for name in names for end in (".so.0", ".0.dylib", ".dll"))
    return tuple(ctypes.CDLL(str(path)) for path in found if path.exists())


def ggml(name: str, arguments: Sequence[type], result: type | None) -> Callable[..., Any]:
    """A function of ggml by name, with its C types declared."""
    function = find_ggml(name, arguments, result)
    if function is None:
        raise TwdError(FailureCode.UNSUPPORTED, f"this build of llama.cpp has no {name}; reinstall llama-cpp-python")
    return function


def find_ggml(name: str, arguments: Sequence[type], result: type | None) -> Callable[..., Any] | None:
    """The same where a build may lack it."""
    for shared_object in _shared_objects():
        function = getattr(shared_object, name, None)
        if function is not None:
            function.argtypes, function.restype = arguments, result
            return cast(Callable[..., Any], function)
    return None


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """Something that llama.cpp can compute on."""

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int
    handle: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, with memory of its own or a part of the machine's."""
        return self.kind in ("gpu", "igpu")


_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accelerator"}


def describe_device(handle: int) -> EngineDevice:
    """What ggml knows of one device."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    text = [ctypes.c_void_p]
    sizes: list[type] = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    ggml("ggml_backend_dev_memory", sizes, None)(handle, ctypes.byref(free), ctypes.byref(total))
    return EngineDevice(
        name=ggml("ggml_backend_dev_name", text, ctypes.c_char_p)(handle).decode("utf-8", "replace"),
        description=ggml("ggml_backend_dev_description", text, ctypes.c_char_p)(handle).decode("utf-8", "replace"),
        kind=_KINDS.get(ggml("ggml_backend_dev_type", text, ctypes.c_int)(handle), "other"),
        total_bytes=total.value,
        free_bytes=free.value,
        handle=handle,
    )


class _Properties(ctypes.Structure):
    """What ggml tells of a device. Behind it stand abilities, of which later versions have more."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("place", ctypes.c_char_p),
        ("abilities", ctypes.c_bool * 256),
    ]


def place_of(device: EngineDevice) -> str:
    """Where a device is on this computer's PCI bus, whichever backend sees it; empty where that is not known."""
    return (_properties(device).place or b"").decode("ascii", "replace")


def buffer_name(device: EngineDevice) -> str:
    """What llama-server's `-ot` calls the memory of a device."""
    kind = ggml("ggml_backend_dev_buffer_type", [ctypes.c_void_p], ctypes.c_void_p)(device.handle)
    name: bytes = ggml("ggml_backend_buft_name", [ctypes.c_void_p], ctypes.c_char_p)(kind)
    return name.decode("utf-8", "replace")


def _properties(device: EngineDevice) -> _Properties:
    told = _Properties()
    ask = ggml("ggml_backend_dev_get_props", [ctypes.c_void_p, ctypes.POINTER(_Properties)], None)
    ask(device.handle, ctypes.byref(told))
    return told


def device_named(name: str) -> EngineDevice:
    """A device of this machine; raises where there is no such."""
    here = {device.name: device for device in devices()}
    if name not in here:
        raise TwdError(FailureCode.UNSUPPORTED, f"there is no device {name} here; there are: {', '.join(here)}")
    return here[name]


def devices() -> list[EngineDevice]:
    """Every device that llama.cpp sees here, the CPU included."""
    start()
    count = ggml("ggml_backend_dev_count", [], ctypes.c_size_t)()
    at = ggml("ggml_backend_dev_get", [ctypes.c_size_t], ctypes.c_void_p)
    return [describe_device(at(index)) for index in range(count)]
