"""A model over RPC workers: shares of a placement in, llama.cpp's devices and splits out.

The workers must have shaken hands before (`rpc_probe`): where one is wrong, llama.cpp ends this process or hangs.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twd.engine.library import EngineDevice, describe_device, device_named, ggml, require_rpc, start
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import CPU

HEAD: Final = rb"^(token_embd|output)\.weight$"
"""The output head, also where the embeddings serve as it."""


@dataclass(frozen=True, slots=True)
class LayerShare:
    """So many layers on one device: of a worker at `endpoint`, or of this machine where that is empty."""

    layers: int
    endpoint: str = ""
    device: str = CPU
    """Its name here; a worker's devices come in the order in which it lends them."""
    number: int | None = None
    """Which of the worker's devices it is, where that lends others, too, that nobody asked for; None: the next one."""

    @property
    def on_host(self) -> bool:
        """Whether it lies in this process's own memory."""
        return not self.endpoint and self.device == CPU


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Where the layers go, in order, and whether the output head stays here."""

    shares: tuple[LayerShare, ...]
    head_here: bool = True
    rtt_ms: float = 0.0
    """Of all its links together: a pass takes each of them once."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every worker once, in order."""
        return tuple(dict.fromkeys(share.endpoint for share in self.shares if share.endpoint))

    @property
    def away(self) -> tuple[LayerShare, ...]:
        """Shares on devices, as llama.cpp counts them: everything but the processor here."""
        return tuple(share for share in self.shares if not share.on_host)

    @property
    def on_cpus(self) -> bool:
        """Whether no layer is given to a device of another kind, here or at a worker."""
        return all(share.device == CPU for share in self.shares)

    @property
    def kind(self) -> str:
        """What a measurement over it holds for, roughly: layers that move between like devices change little, and what
        the way adds is known.

        So a model that comes back over what is left, or over one machine more, need not be measured before its jobs
        go on.
        """
        devices = sorted({share.device for share in self.away})
        return f"over {', '.join(devices)}, head {'here' if self.head_here else 'there'}"


def gpu_layers(plan: PoolPlan) -> int:
    """llama.cpp gives the last so many layers to devices; the output head counts as one more."""
    return sum(share.layers for share in plan.away) + 1 if plan.away else 0


def tensor_split(plan: PoolPlan) -> tuple[float, ...]:
    """Weights under which each device gets just its layers, the last one the head besides.

    Borders lie half a layer before a whole number, so that rounding cannot move one.
    """
    counts = [float(share.layers) for share in plan.away]
    if not counts:
        return ()
    counts[0] -= 0.5
    counts[-1] += 1.5
    return tuple(max(0.0, count) for count in counts)


def open_devices(plan: PoolPlan) -> tuple[EngineDevice, ...]:
    """The devices of the plan's shares, workers connected; for one thread, before the model is loaded."""
    if plan.endpoints:
        require_rpc()
    start()
    lent = {endpoint: _connect(endpoint) for endpoint in plan.endpoints}
    return tuple(_device(share, lent) for share in plan.away)


def _device(share: LayerShare, lent: dict[str, list[EngineDevice]]) -> EngineDevice:
    if not share.endpoint:
        return device_named(share.device)
    devices = lent[share.endpoint]
    if len(devices) <= (share.number or 0):
        raise TwdError(FailureCode.UNSUPPORTED, f"the worker at {share.endpoint} lends too few devices")
    return devices.pop(0) if share.number is None else devices[share.number]


def _connect(endpoint: str) -> list[EngineDevice]:
    registry = ggml("ggml_backend_rpc_add_server", [ctypes.c_char_p], ctypes.c_void_p)(endpoint.encode())
    if not registry:
        raise TwdError(FailureCode.BACKEND_DOWN, f"llama.cpp cannot use the worker at {endpoint}")
    count = ggml("ggml_backend_reg_dev_count", [ctypes.c_void_p], ctypes.c_size_t)(registry)
    at = ggml("ggml_backend_reg_dev_get", [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_void_p)
    return [describe_device(at(registry, index)) for index in range(count)]


class _Override(ctypes.Structure):
    """llama.cpp's llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def keep_on_host(patterns: Sequence[bytes]) -> ctypes.Array[_Override]:
    """The list, ended by a row of nulls, that keeps matching tensors in this machine's memory."""
    host = ggml("ggml_backend_cpu_buffer_type", [], ctypes.c_void_p)()
    rows = [_Override(pattern, host) for pattern in patterns]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))
