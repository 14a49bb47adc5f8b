"""One llama.cpp context: rows of tokens in, logits out, and the KV cache behind them. For one thread only."""

import ctypes
import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from twd.engine.host_memory.limits import require_memory
from twd.engine.library import last_errors, llama
from twd.engine.model import LoadedGguf, load_error
from twd.gguf_tools.constants import GGMLQuantizationType
from twd.process.cores import usable_cores
from twd.wire.failures import FailureCode, TwdError

Logits = npt.NDArray[np.float32]
SavedState = npt.NDArray[np.uint8]
CTX_SIZE_MAX = 8192
"""Where nobody asks for another size."""
EXACT_ROWS, FAST_ROWS = 64, 512
"""Of one pass: the same for a whole model and for its slices, so that the same text comes out."""
_NO_ROOM, _ABORTED = 1, 2
_PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class CacheLayout(enum.StrEnum):
    """How sequences lie in the KV cache.

    STREAMS gives each its own buffer: what others do never moves its cells, so logits stay bit-identical.
    UNIFIED shares one buffer, so windows of unequal width fit one pass, at the price of exactness.
    TREE is UNIFIED for one session and the branches of its token trees.
    """

    STREAMS = "streams"
    UNIFIED = "unified"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """How much to hold and how to compute. `threads` 0 means one for each core this process may use."""

    ctx_size: int = 4096
    parallel: int = 1
    layout: CacheLayout = CacheLayout.STREAMS
    branches: int = 0
    type_k: str = "q8_0"
    type_v: str = "f16"
    flash_attention: bool = True
    threads: int = 0
    ubatch: int = 64
    embeddings: bool = False
    """Whether passes give the last hidden states instead of logits."""
    snapshots: int = 0
    """How many tokens back a recurrent state is kept for each sequence, where the architecture can do that."""

    @property
    def sequences(self) -> int:
        """Sessions and the branches of their trees."""
        return self.parallel + (self.branches if self.layout is CacheLayout.TREE else 0)

    @property
    def cells(self) -> int:
        """KV cells: each session's share, and room for one pass of drafts or padding beyond its end."""
        return (self.ctx_size + self.ubatch) * self.parallel


@dataclass(slots=True)
class BatchTokens:
    """What one decode is fed, row by row. `shared` names further sequences of a row that several branches share."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    outputs: list[bool] = field(default_factory=list)
    shared: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: int, at: int, tokens: Iterable[int], output_from: int = 0) -> None:
        """A run of tokens from position `at`; those from `output_from` on give logits."""
        tokens = list(tokens)
        count = len(tokens)
        silent = min(max(output_from, 0), count)
        self.tokens += tokens
        self.positions += range(at, at + count)
        self.sequences += [sequence] * count
        self.outputs += [False] * silent + [True] * (count - silent)

    def add_shared(self, sequences: Sequence[int], at: int, token: int, *, output: bool) -> None:
        """One token that stands in several sequences."""
        if len(sequences) > 1:
            self.shared[len(self)] = tuple(sequences[1:])
        self.add(sequences[0], at, [token], output_from=0 if output else 1)


class _Batch:
    """llama.cpp's batch over numpy arrays: filling it costs microseconds, whatever its size."""

    def __init__(self, rows: int, sequences: int) -> None:
        self.tokens = np.zeros(rows, np.int32)
        self.positions = np.zeros(rows, np.int32)
        self.counts = np.ones(rows, np.int32)
        self.ids = np.zeros((rows, sequences), np.int32)
        self.id_rows = self.ids.ctypes.data + np.arange(rows, dtype=np.uint64) * np.uint64(self.ids.strides[0])
        self.outputs = np.zeros(rows, np.int8)
        self.struct = llama.llama_batch()
        self._token_pointer = self.tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        for name, array in (("pos", self.positions), ("n_seq_id", self.counts)):
            setattr(self.struct, name, array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)))
        self.struct.seq_id = self.id_rows.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        self.struct.logits = self.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(self, rows: BatchTokens, states: Logits | None = None) -> ctypes.Structure:
        count = len(rows)
        self.struct.n_tokens = count
        self.tokens[:count] = rows.tokens
        self.struct.token = self._token_pointer if states is None else None
        self.struct.embd = None if states is None else states.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self.positions[:count] = rows.positions
        self.ids[:count, 0] = rows.sequences
        self.outputs[:count] = rows.outputs
        self.counts[:count] = 1
        for row, more in rows.shared.items():
            self.counts[row] = 1 + len(more)
            self.ids[row, 1 : 1 + len(more)] = more
        return self.struct  # type: ignore[no-any-return]


class Context:
    """A KV cache for some sequences of one model, and the means to compute on it."""

    def __init__(self, model: LoadedGguf, settings: ContextSettings) -> None:
        self.model = model
        self.settings = settings
        self.threads = settings.threads or usable_cores()
        self._types = kv_type(settings.type_k), kv_type(settings.type_v)
        require_memory(_kv_bytes(model, settings), f"the KV cache of {settings.parallel} x {settings.ctx_size} tokens")
        last_errors()
        handle = llama.llama_init_from_model(model.handle, self._parameters())
        if not handle:
            raise load_error(f"llama.cpp cannot make a context of {settings.parallel} x {settings.ctx_size} tokens")
        self.handle = handle
        self._memory = llama.llama_get_memory(handle)
        self._batch = _Batch(settings.ubatch, settings.sequences)
        self._row_type = ctypes.c_float * model.vocab.size
        self._views: dict[int, Logits] = {}
        self.on_pass: Callable[[int], None] | None = None
        """Told the rows of each pass before it begins."""

    def _parameters(self) -> ctypes.Structure:
        settings = self.settings
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = settings.cells
        parameters.n_seq_max = settings.sequences
        parameters.n_batch = parameters.n_ubatch = settings.ubatch
        parameters.n_threads = parameters.n_threads_batch = self.threads
        parameters.n_rs_seq = settings.snapshots
        parameters.kv_unified = settings.layout is not CacheLayout.STREAMS
        enabled, disabled = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.flash_attn_type = enabled if settings.flash_attention else disabled
        parameters.type_k, parameters.type_v = self._types
        parameters.embeddings = settings.embeddings
        if settings.embeddings:
            parameters.pooling_type = llama.LLAMA_POOLING_TYPE_NONE
        parameters.no_perf = True
        return parameters  # type: ignore[no-any-return]

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from the next pass on; not while one is under way."""
        self.threads = threads
        llama.llama_set_n_threads(self.handle, threads, threads)

    def decode(self, rows: BatchTokens, states: Logits | None = None) -> None:
        """One forward pass. Where it fails, no row of it stands in the KV cache that `rollback` cannot remove.

        `states` (contiguous, one row of `n_embd` floats for each row) take the place of the tokens' embeddings.
        """
        if self.on_pass is not None:
            self.on_pass(len(rows))
        code = llama.llama_decode(self.handle, self._batch.fill(rows, states))
        if code:
            raise _decode_error(code, len(rows))

    def logits(self, row: int) -> Logits:
        """The logits of a row of the last pass: a view that the next pass overwrites."""
        pointer = llama.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise TwdError(FailureCode.INTERNAL, f"row {row} of the last pass gave no logits")
        address = ctypes.addressof(pointer.contents)
        view = self._views.get(address)
        if view is None:
            view = self._views[address] = np.ctypeslib.as_array(self._row_type.from_address(address))
        return view

    def embedding(self, row: int) -> Logits:
        """The last hidden state of a row of the last pass: a view that the next pass overwrites."""
        pointer = llama.llama_get_embeddings_ith(self.handle, row)
        if not pointer:
            raise TwdError(FailureCode.INTERNAL, f"row {row} of the last pass gave no hidden state")
        return np.ctypeslib.as_array(pointer, (self.model.n_embd,))

    def rollback(self, sequence: int, position: int) -> bool:
        """Forget everything of a sequence from `position` on; false where this model cannot do that."""
        return bool(llama.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def clear(self, sequence: int) -> None:
        """Forget a whole sequence."""
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Make one sequence equal to another; across streams this copies the whole buffer."""
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def end(self, sequence: int) -> int:
        """The position after the last token of a sequence; 0 where it is empty."""
        return int(llama.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    @property
    def snapshots(self) -> int:
        """How many tokens back each recurrent state is really kept; 0 where the architecture cannot do that."""
        return int(llama.llama_n_rs_seq(self.handle))

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep a running state instead of cells for each token."""
        model = self.model.handle
        return bool(llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))

    def state_bytes(self, sequence: int) -> int:
        """The size of what `save_state` would save now."""
        return int(llama.llama_state_seq_get_size_ext(self.handle, sequence, _PARTIAL))

    def save_state(self, sequence: int, into: SavedState | None = None) -> SavedState | None:
        """The running state of a sequence, without its cells for single tokens; None where it cannot be saved.

        `into` is overwritten if it has the right size: new memory of that size costs as much as saving.
        """
        size = self.state_bytes(sequence)
        saved = into if into is not None and into.size == size else np.empty(size, np.uint8)
        pointer = saved.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        done = llama.llama_state_seq_get_data_ext(self.handle, pointer, saved.size, sequence, _PARTIAL)
        return saved if saved.size and done == saved.size else None

    def load_state(self, sequence: int, saved: SavedState) -> bool:
        """Give a sequence the running state that was saved; its cells for single tokens stay as they are."""
        pointer = saved.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        done = llama.llama_state_seq_set_data_ext(self.handle, pointer, saved.size, sequence, _PARTIAL)
        return bool(done == saved.size)

    def synchronize(self) -> None:
        """Wait until the last pass is computed."""
        llama.llama_synchronize(self.handle)

    def close(self) -> None:
        """Free the cache; harmless when repeated."""
        if self.handle:
            self._views.clear()
            llama.llama_free(self.handle)
            self.handle = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def kv_type(name: str) -> int:
    """ggml's number for a cell type such as `f16`."""
    try:
        return int(GGMLQuantizationType[name.upper()])
    except KeyError:
        raise TwdError(
            FailureCode.BAD_REQUEST, f"unknown KV cache type {name!r}; use f16, bf16, q8_0 or q4_0"
        ) from None


def _kv_bytes(model: LoadedGguf, settings: ContextSettings) -> int:
    if model.offloads:
        return 0
    return model.info.kv_bytes_per_token(settings.type_k, settings.type_v) * settings.cells


def _decode_error(code: int, rows: int) -> TwdError:
    if code == _NO_ROOM:
        return TwdError(FailureCode.CONTEXT_OVERFLOW, f"the KV cache has no room for {rows} more tokens")
    if code == _ABORTED:
        return TwdError(FailureCode.CANCELLED, "the pass was aborted")
    return TwdError(
        FailureCode.INTERNAL, f"llama.cpp failed to decode {rows} rows ({code}): {last_errors() or 'no reason'}"
    )
