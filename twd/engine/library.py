"""Access to the llama.cpp library: starts it once, sends its messages to logging, and lists its devices."""

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
"""The folder of the Python bindings."""
LIBRARIES = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or FOLDER / "lib")
"""The folder from which the bindings load llama.cpp."""
_log = logging.getLogger("twd.engine.llama")
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.DEBUG, 4: logging.WARNING}
_CONTINUATION = 5
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_errors: deque[str] = deque(maxlen=8)


_STOPPED = ("failed with error 1", "compute status: 1", "failed to decode, ret = 2")
"""The ends of llama.cpp's messages about a pass that we aborted ourselves."""


class _LogLine:
    """Joins the pieces that llama.cpp logs into whole lines."""

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
    """Call `heard` after each log message of llama.cpp. It runs on the thread that logs, which waits for it."""
    _listeners.append(heard)


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    _line.add(level, text.decode("utf-8", "replace"))
    for heard in _listeners:
        heard()


@dataclass(slots=True)
class _Abort:
    """The exit code and the log level to use when llama.cpp aborts."""

    code: int = 70
    level: int = logging.CRITICAL


_abort = _Abort()


def leave_on_abort_with(code: int) -> None:
    """Set the exit code of this process for an abort of llama.cpp, and log it as a warning only. With RPC workers an
    abort usually means that a worker is lost, which can happen at any time."""
    _abort.code, _abort.level = code, logging.WARNING


def _leave_on_abort(reason: bytes) -> None:
    """Called when llama.cpp aborts: log the reason and exit at once, instead of waiting for a debugger."""
    _log.log(_abort.level, "llama.cpp gave up: %s", reason.decode("utf-8", "replace").strip())
    logging.shutdown()
    os._exit(_abort.code)


_on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_leave_on_abort)


@cache
def start() -> None:
    """Initialize llama.cpp once for this process. The library may have been loaded before this process was forked."""
    set_variables()
    llama.llama_log_set(_on_log, None)
    llama.llama_backend_init()
    _load_named_backend()
    ggml("ggml_set_abort_callback", [type(_on_abort)], ctypes.c_void_p)(_on_abort)


def _load_named_backend() -> None:
    """Load the backend that `GGML_BACKEND_PATH` names, as llama.cpp's own programs do: one that was built apart."""
    named = os.environ.get("GGML_BACKEND_PATH")
    if named and not ggml("ggml_backend_load", [ctypes.c_char_p], ctypes.c_void_p)(os.fsencode(named)):
        _log.warning("the backend %s of GGML_BACKEND_PATH cannot be loaded: %s", named, last_errors() or "no reason")


@cache
def version() -> str:
    """The version of the bindings, read from their source file. This is faster than importing them."""
    found = _VERSION.search((FOLDER / "__init__.py").read_text("utf-8"))
    return found[1] if found else "unknown"


def last_errors() -> str:
    """The latest warnings of llama.cpp, newest last. Reading them clears them."""
    text = "; ".join(_errors)
    _errors.clear()
    return text


def supports_rpc() -> bool:
    """Whether this build of llama.cpp can use RPC workers."""
    return bool(llama.llama_supports_rpc())


def require_rpc() -> None:
    """Raise TwdError with advice if llama.cpp was built without RPC (a cached wheel ignores build flags)."""
    if not supports_rpc():
        raise TwdError(
            FailureCode.UNSUPPORTED,
            "this build of llama.cpp has no RPC; rebuild llama-cpp-python with CMAKE_ARGS=-DGGML_RPC=ON "
            "and without the wheel cache",
        )


@cache
def _shared_objects() -> tuple[ctypes.CDLL, ...]:
    """The ggml libraries, opened by the same names that llama.cpp used. Another name would load a second copy."""
    names = ("libggml-base", "libggml", "libggml-cpu", "libggml-rpc")
    found = (LIBRARIES / f"{name}{end}" for name in names for end in (".so.0", ".0.dylib", ".dll"))
    return tuple(ctypes.CDLL(str(path)) for path in found if path.exists())


def ggml(name: str, arguments: Sequence[type], result: type | None) -> Callable[..., Any]:
    """The ggml function `name` with its C types declared; raises TwdError if this build lacks it."""
    function = find_ggml(name, arguments, result)
    if function is None:
        raise TwdError(FailureCode.UNSUPPORTED, f"this build of llama.cpp has no {name}; reinstall llama-cpp-python")
    return function


def find_ggml(name: str, arguments: Sequence[type], result: type | None) -> Callable[..., Any] | None:
    """The same, but None if this build lacks the function."""
    for shared_object in _shared_objects():
        function = getattr(shared_object, name, None)
        if function is not None:
            function.argtypes, function.restype = arguments, result
            return cast(Callable[..., Any], function)
    return None


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """A device that llama.cpp can compute on."""

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int
    handle: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, dedicated or integrated."""
        return self.kind in ("gpu", "igpu")


_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accelerator"}


def describe_device(handle: int) -> EngineDevice:
    """The facts that ggml gives about one device."""
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
    """ggml's device properties. The capabilities at the end have spare room, because later versions have more."""

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
    """The PCI address of a device, the same for every backend that sees it; empty if not known."""
    return (_properties(device).place or b"").decode("ascii", "replace")


def buffer_name(device: EngineDevice) -> str:
    """The name of a device's memory for the option `-ot` of llama-server."""
    kind = ggml("ggml_backend_dev_buffer_type", [ctypes.c_void_p], ctypes.c_void_p)(device.handle)
    name: bytes = ggml("ggml_backend_buft_name", [ctypes.c_void_p], ctypes.c_char_p)(kind)
    return name.decode("utf-8", "replace")


def _properties(device: EngineDevice) -> _Properties:
    told = _Properties()
    ask = ggml("ggml_backend_dev_get_props", [ctypes.c_void_p, ctypes.POINTER(_Properties)], None)
    ask(device.handle, ctypes.byref(told))
    return told


def device_named(name: str) -> EngineDevice:
    """The device of this machine with this name; raises TwdError if there is none."""
    here = {device.name: device for device in devices()}
    if name not in here:
        raise TwdError(FailureCode.UNSUPPORTED, f"there is no device {name} here; there are: {', '.join(here)}")
    return here[name]


def devices() -> list[EngineDevice]:
    """All devices that llama.cpp sees here, the CPU included."""
    start()
    count = ggml("ggml_backend_dev_count", [], ctypes.c_size_t)()
    at = ggml("ggml_backend_dev_get", [ctypes.c_size_t], ctypes.c_void_p)
    return [describe_device(at(index)) for index in range(count)]
