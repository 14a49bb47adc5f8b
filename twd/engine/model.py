"""Loads a model into memory with progress reports; raises with a reason, frees the memory on close."""

import ctypes
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from twd.decoding.slots import CopyCost
from twd.engine.build import has_amx
from twd.engine.experts.choices import open_remembering
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import NativeExperts
from twd.engine.experts.stream import ExpertStream, open_stream
from twd.engine.host_memory.limits import require_memory
from twd.engine.kernels import need_no_repacking
from twd.engine.library import EngineDevice, devices, last_errors, llama, place_of, start
from twd.engine.tensor_places import TensorOverride, bytes_on_host, override_list
from twd.engine.vocab import Vocab
from twd.gguf_tools.inspect import GgufInfo, inspect
from twd.gguf_tools.slice_layout import facts_of
from twd.kit.progress import Share, unheard
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import ModelFacts

ONE_SESSION = ("kimi-linear", "plamo2")
"""Architectures whose context is for one session: with several, llama.cpp aborts the process, or (plamo2) writes states
of sessions that share a pass to wrong places."""
_SCANS_ON_PROCESSORS = ("jamba", "mamba")
"""Architectures whose snapshots our build computes on processors only."""
ALL_OUTPUTS = ("cogvlm",)
"""Architectures whose passes compute the logits of all tokens: asked for fewer, llama.cpp tells those of others."""


@dataclass(frozen=True, slots=True)
class ModelLoadOptions:
    """How to load a model. `gpu_layers` -1 means all; no `devices` means every device that llama.cpp sees."""

    path: Path
    gpu_layers: int = 0
    use_mmap: bool = True
    use_extra_bufts: bool = True
    vocab_only: bool = False
    devices: tuple[EngineDevice, ...] = ()
    tensor_split: tuple[float, ...] = ()
    host_tensors: tuple[bytes, ...] = ()
    """Name patterns of tensors that stay in this machine's memory, whatever layer they belong to."""
    expert_places: tuple[TensorOverride, ...] = ()
    """Experts that do not lie with their layer."""
    head: bool = False
    """Load the model's own head (multi-token prediction), too, if the file has one."""
    from_disk: bool = False
    """The weights need not fit in memory: they are read from the mapped file when needed, and never copied."""
    expert_bytes: int = 0
    """If given, experts of a mixture are read while it computes, and may take this much memory."""
    remember: bool = False
    """Remember which experts of a mixture each token chooses. The weights must be mapped."""


class LoadedGguf:
    """Weights and vocabulary. Contexts made from it must be closed before it."""

    def __init__(self, handle: int, info: GgufInfo, settings: ModelLoadOptions) -> None:
        self.handle = handle
        self.info = info
        self.settings = settings
        self.vocab = Vocab(
            llama.llama_model_get_vocab(handle), architecture=info.architecture, chat_template=info.chat_template
        )
        self.chat_template = info.chat_template
        self.ctx_train: int = llama.llama_model_n_ctx_train(handle)
        self.n_embd: int = llama.llama_model_n_embd(handle)
        self.n_layer: int = llama.llama_model_n_layer(handle)
        self.head_layers = info.head_layers if settings.head else 0
        self.offloads = offloads(settings)
        self.repacked = repacks(settings, info)
        self.experts: ExpertStream | None = None
        self.choices: NativeExperts | None = None
        """Remembers what each token chooses, where that is wanted."""

    @property
    def may_snapshot(self) -> bool:
        """Whether a context may ask for snapshots of a state; llama.cpp makes none for architectures without."""
        return not (self.offloads and self.info.architecture in _SCANS_ON_PROCESSORS)

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep a recurrent state instead of KV cells for each token."""
        return bool(llama.llama_model_is_recurrent(self.handle) or llama.llama_model_is_hybrid(self.handle))

    def copy_cost(self, cells: int, type_k: str, type_v: str) -> CopyCost | None:
        """What a copy of a slot with so many cells costs; 0: it moves none. None over RPC workers: each tensor would
        wait for a trip. Layers with a window do not save what the window has left behind."""
        if any(device.name.startswith("RPC") for device in self.settings.devices):
            return None
        saved = not (self.offloads or self.recurrent or llama.llama_model_n_swa(self.handle))
        return CopyCost(cells, self.info.kv_bytes_per_token(type_k, type_v) if saved else 0)

    @classmethod
    def load(cls, settings: ModelLoadOptions, on_progress: Share = unheard) -> Self:
        """Load a model; raises TwdError with MODEL_LOAD or OUT_OF_MEMORY."""
        start()
        info = inspect(settings.path)
        listens = settings.expert_bytes or (settings.remember and not offloads(settings))
        layout = expert_layout(settings.path) if listens else None
        if layout is not None and settings.expert_bytes:
            require_memory(layout.dense_bytes + settings.expert_bytes, f"the model {settings.path.name}")
            load = partial(_load, settings, info, unheard)
            handle, stream = open_stream(layout, settings.expert_bytes, load, on_progress)
            model = cls(handle, info, settings)
            model.experts, model.choices = stream, stream.native
            return model
        require_memory(_bytes_in_ram(info, settings), f"the model {settings.path.name}")
        load = partial(_load, settings, info, on_progress)
        if layout is None:
            return cls(load(), info, settings)
        handle, choices = open_remembering(layout, load)
        model = cls(handle, info, settings)
        model.choices = choices
        return model

    def facts(
        self, model: ModelId, *, ctx_size: int, parallel: int, can_rollback: bool = True, note: str = ""
    ) -> ModelFacts:
        """The facts about this model for other processes."""
        return ModelFacts(
            model=model,
            file=self.settings.path.name,
            architecture=self.info.architecture,
            quantization=self.info.quantization,
            parameters=self.info.parameters,
            size_bytes=self.info.size_bytes,
            ctx_size=ctx_size,
            parallel=parallel,
            vocab=self.vocab.fingerprint(),
            can_rollback=can_rollback,
            chat_template=bool(self.chat_template),
            note=note,
        )

    def close(self) -> None:
        """Free the weights. A second call does nothing."""
        if self.handle:
            if self.experts is not None:
                self.experts.close()
            elif self.choices is not None:
                self.choices.close()
            llama.llama_model_free(self.handle)
            self.handle = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def offloads(settings: ModelLoadOptions) -> bool:
    """Whether layers go to a GPU: they are requested to, and there is a GPU."""
    found = settings.devices or devices() if settings.gpu_layers else ()
    return any(device.is_gpu for device in found)


def cards_of(settings: ModelLoadOptions) -> tuple[str, ...]:
    """The cards that layers go to, by names that all processes of this computer have for them."""
    found = (settings.devices or devices()) if settings.gpu_layers else ()
    return tuple(sorted({place_of(device) or device.name for device in found if device.is_gpu}))


def repacks(settings: ModelLoadOptions, info: GgufInfo) -> bool:
    """Whether llama.cpp may repack weights for its own kernels."""
    as_stored = settings.from_disk or settings.expert_bytes > 0 or settings.remember
    free = settings.use_extra_bufts and not as_stored and not has_amx()
    return free and not need_no_repacking(facts_of(info).blocks)


def _bytes_in_ram(info: GgufInfo, settings: ModelLoadOptions) -> int:
    if settings.vocab_only or settings.from_disk:
        return 0
    if not offloads(settings):
        return info.weight_bytes
    kept = max(info.layers - settings.gpu_layers, 0) if settings.gpu_layers >= 0 else 0
    experts = bytes_on_host(info, settings.expert_places, kept)
    return info.other_bytes + sum(info.layer_bytes[:kept]) + experts


def _load(settings: ModelLoadOptions, info: GgufInfo, on_progress: Share) -> int:
    raised: list[Exception] = []

    def report(progress: float, _: object) -> bool:
        try:
            on_progress(min(max(float(progress), 0.0), 1.0))
        except Exception as error:  # noqa: BLE001 - it must not cross C; it is raised again below
            raised.append(error)
        return not raised

    callback = llama.llama_progress_callback(report)
    parameters, keep = _parameters(settings, info)
    parameters.progress_callback = callback
    last_errors()
    handle = llama.llama_model_load_from_file(str(settings.path).encode(), parameters)
    del keep
    if raised:
        if handle:
            llama.llama_model_free(handle)
        raise raised[0]
    if not handle:
        raise load_error(f"llama.cpp cannot load {settings.path}")
    return int(handle)


def load_error(what: str) -> TwdError:
    """A TwdError for a failure of llama.cpp, with the reason that it logged."""
    reason = last_errors() or "no reason given"
    memory = "out of memory" in reason or "failed to allocate" in reason
    return TwdError(FailureCode.OUT_OF_MEMORY if memory else FailureCode.MODEL_LOAD, f"{what}: {reason}")


def _parameters(settings: ModelLoadOptions, info: GgufInfo) -> tuple[ctypes.Structure, list[object]]:
    """llama.cpp's parameters, and the objects that must stay alive while it reads them."""
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = settings.gpu_layers
    mapped = settings.use_mmap or settings.from_disk or settings.expert_bytes > 0
    parameters.load_mode = llama.LLAMA_LOAD_MODE_MMAP if mapped else llama.LLAMA_LOAD_MODE_NONE
    parameters.use_extra_bufts = repacks(settings, info)
    parameters.vocab_only = settings.vocab_only
    parameters.load_mtp = settings.head and info.head_layers > 0
    keep: list[object] = []
    if settings.devices:
        handles = (ctypes.c_void_p * (len(settings.devices) + 1))(*(d.handle for d in settings.devices), None)
        keep.append(handles)
        parameters.devices = ctypes.cast(handles, ctypes.c_void_p)
    if settings.tensor_split:
        split = (ctypes.c_float * llama.llama_max_devices())(*settings.tensor_split)
        keep.append(split)
        parameters.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
    places = (*(TensorOverride(pattern) for pattern in settings.host_tensors), *settings.expert_places)
    if places:
        overrides = override_list(places)
        keep.append(overrides)
        parameters.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    return parameters, keep
