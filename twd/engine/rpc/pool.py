"""A model over RPC workers: turns the layer shares of a placement into llama.cpp's devices and splits.

Check the workers first (`twd.engine.rpc.probe`): with an unsuitable worker, llama.cpp aborts this process or hangs.
"""

import ctypes
from dataclasses import dataclass
from typing import Final

from twd.engine.library import EngineDevice, describe_device, device_named, ggml, require_rpc, start
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import CPU

HEAD: Final = rb"^(token_embd|output)\.weight$"
"""The names of the output head's tensors, also if the embedding is used as the head."""


@dataclass(frozen=True, slots=True)
class LayerShare:
    """A number of layers on one device of the worker at `endpoint`, or of this machine if `endpoint` is empty."""

    layers: int
    endpoint: str = ""
    device: str = CPU
    """The device's name on this machine. A worker's devices are taken in the order in which it lends them."""
    number: int | None = None
    """The index of the device at the worker, if the worker also lends devices that are not used; None: the next."""

    @property
    def on_host(self) -> bool:
        """Whether these layers are in this process's own memory."""
        return not self.endpoint and self.device == CPU


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Where the layers go, in order, and whether the output head stays on this machine."""

    shares: tuple[LayerShare, ...]
    head_here: bool = True
    rtt_ms: float = 0.0
    """The round-trip time of all links together, in ms; a pass uses each link once."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoint of each worker once, in order."""
        return tuple(dict.fromkeys(share.endpoint for share in self.shares if share.endpoint))

    @property
    def away(self) -> tuple[LayerShare, ...]:
        """The shares on devices, as llama.cpp counts them: all except those on this machine's CPU."""
        return tuple(share for share in self.shares if not share.on_host)

    @property
    def on_cpus(self) -> bool:
        """Whether all layers are on CPUs, here and at workers."""
        return all(share.device == CPU for share in self.shares)

    @property
    def kind(self) -> str:
        """A key for measurements over this pool. It names only the kinds of devices: layers that move between similar
        devices change the times little, and the time of the links is known.

        So a model that is loaded again over one machine more or less need not be measured before its jobs continue.
        """
        devices = sorted({share.device for share in self.away})
        return f"over {', '.join(devices)}, head {'here' if self.head_here else 'there'}"


def gpu_layers(plan: PoolPlan, own_head: int = 0) -> int:
    """llama.cpp's `n_gpu_layers`: this many last layers go to devices; the output head counts as one more.

    So do the `own_head` layers of the model's own head (multi-token prediction), whether they are loaded or not.
    """
    return sum(share.layers for share in plan.away) + own_head + 1 if plan.away else 0


def tensor_split(plan: PoolPlan, own_head: int = 0) -> tuple[float, ...]:
    """llama.cpp's `tensor_split`, so that each device gets exactly its layers, and the last one also the heads.

    The borders are half a layer below whole numbers, so that rounding cannot move them.
    """
    counts = [float(share.layers) for share in plan.away]
    if not counts:
        return ()
    counts[0] -= 0.5
    counts[-1] += 1.5 + own_head
    return tuple(max(0.0, count) for count in counts)


def layer_names(first: int, end: int) -> bytes:
    """The name pattern of the tensors of layers `first` to `end` (not included)."""
    return rf"^blk\.({'|'.join(str(layer) for layer in range(first, end))})\.".encode()


def open_devices(plan: PoolPlan) -> tuple[EngineDevice, ...]:
    """Connect the workers and return the devices of the plan's shares. Call it on one thread, before loading."""
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
