"""One llama.cpp context with its KV cache: it takes batches of tokens and gives logits. For one thread only."""

import ctypes
import enum
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from twd.engine.device_rows.binding import DeviceRows, LogitsPlace
from twd.engine.host_memory.limits import require_memory
from twd.engine.library import last_errors, llama
from twd.engine.model import ALL_OUTPUTS, LoadedGguf, load_error
from twd.engine.steps.binding import RuleHolder
from twd.gguf_tools.constants import GGMLQuantizationType
from twd.process.cores import usable_cores
from twd.wire.failures import FailureCode, TwdError

Logits = npt.NDArray[np.float32]
SavedState = npt.NDArray[np.uint8]
CTX_SIZE_MAX = 8192
"""The default context size in tokens."""
EXACT_ROWS, FAST_ROWS = 64, 512
"""The most tokens of one pass (ubatch). A whole model and its slices use the same value, so they give the same text."""
_NO_ROOM, _ABORTED = 1, 2
_SPARE = 3
_PARTIAL, _ALL = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY, 0


class CacheLayout(enum.StrEnum):
    """How sequences are placed in the KV cache.

    STREAMS: each sequence has its own buffer. Other sequences never move its cells, so logits stay bit-identical.
    UNIFIED: all share one buffer (llama.cpp's `kv_unified`). One pass takes windows of unequal length, but the logits
    are not exact.
    TREE: UNIFIED for one session and the branches of its draft trees.
    """

    STREAMS = "streams"
    UNIFIED = "unified"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """Sizes and options of a context.

    `ctx_size`: tokens of each session. `parallel`: number of sessions. `branches`: most further branches of a draft
    tree. `ubatch`: most tokens of a pass. `threads` 0: one thread for each core that this process may use.
    """

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
    """True: passes give the last hidden states instead of logits."""
    snapshots: int = 0
    """How many tokens each sequence can go back by snapshots of its recurrent state, if the architecture has them."""

    @property
    def sequences(self) -> int:
        """The number of sequences: sessions, and the branches of their draft trees."""
        return self.parallel + (self.branches if self.layout is CacheLayout.TREE else 0)

    @property
    def cells(self) -> int:
        """The number of KV cells: for each session its context, and one more pass for drafts or padding at its end."""
        return (self.ctx_size + self.ubatch) * self.parallel


@dataclass(slots=True)
class BatchTokens:
    """The batch of one decode, token by token. `shared` maps a batch index to the further sequences of that token."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    outputs: list[bool] = field(default_factory=list)
    shared: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: int, at: int, tokens: Iterable[int], output_from: int = 0) -> None:
        """Add tokens at positions `at`, `at` + 1, ...; those from index `output_from` on give logits."""
        tokens = list(tokens)
        count = len(tokens)
        silent = min(max(output_from, 0), count)
        self.tokens += tokens
        self.positions += range(at, at + count)
        self.sequences += [sequence] * count
        self.outputs += [False] * silent + [True] * (count - silent)

    def spans(self) -> dict[int, range]:
        """For each sequence the indexes of its tokens in the batch, if they stand together."""
        found: dict[int, range] = {}
        for index, sequence in enumerate(self.sequences):
            found[sequence] = range(found[sequence].start if sequence in found else index, index + 1)
        return found

    def add_shared(self, sequences: Sequence[int], at: int, token: int, *, output: bool) -> None:
        """Add one token that belongs to several sequences."""
        if len(sequences) > 1:
            self.shared[len(self)] = tuple(sequences[1:])
        self.add(sequences[0], at, [token], output_from=0 if output else 1)


class _Batch:
    """A `llama_batch` over numpy arrays, so that filling it takes only microseconds."""

    def __init__(self, rows: int, sequences: int, places: int) -> None:
        """`places`: how many positions llama.cpp reads for each hidden state that comes in."""
        self._places = places
        self.tokens = np.zeros(rows, np.int32)
        self.positions = np.zeros(rows * places, np.int32)
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

    def fill(
        self, rows: BatchTokens, states: Logits | None = None, *, both: bool = False, every: bool = False
    ) -> ctypes.Structure:
        """`both`: tokens and states go in, as a head reads them; `every`: ask for the logits of all tokens."""
        count = len(rows)
        self.struct.n_tokens = count
        self.tokens[:count] = rows.tokens
        self.struct.token = self._token_pointer if states is None or both else None
        self.struct.embd = None if states is None else states.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self.positions[:count] = rows.positions
        if states is not None:
            self._spread(count)
        self.ids[:count, 0] = rows.sequences
        self.outputs[:count] = True if every else rows.outputs
        self.counts[:count] = 1
        for row, more in rows.shared.items():
            self.counts[row] = 1 + len(more)
            self.ids[row, 1 : 1 + len(more)] = more
        return self.struct  # type: ignore[no-any-return]

    def _spread(self, count: int) -> None:
        """Give a state all its positions (time, height, width, a spare one), as llama.cpp does by itself for tokens."""
        for place in range(1, self._places):
            part = self.positions[place * count : (place + 1) * count]
            part[:] = self.positions[:count] if place < _SPARE else 0


class Context:
    """A llama.cpp context: the KV cache of some sequences of one model, and the passes that use it."""

    _reads_both = False
    """Whether passes read tokens and states, and not one of them."""

    def __init__(self, model: LoadedGguf, settings: ContextSettings) -> None:
        self.model = model
        self.settings = settings
        self.threads = settings.threads or usable_cores()
        self._types = kv_type(settings.type_k), kv_type(settings.type_v)
        require_memory(self._cache_bytes(), f"the KV cache of {settings.parallel} x {settings.ctx_size} tokens")
        last_errors()
        handle = llama.llama_init_from_model(model.handle, self._parameters())
        if not handle:
            raise load_error(f"llama.cpp cannot make a context of {settings.parallel} x {settings.ctx_size} tokens")
        self.handle = handle
        self._memory = llama.llama_get_memory(handle)
        self._batch = _Batch(settings.ubatch, settings.sequences, _places(model))
        self._every_output = model.info.architecture in ALL_OUTPUTS
        self._row_type = ctypes.c_float * model.vocab.size
        self._views: dict[int, Logits] = {}
        cells = settings.ctx_size if settings.layout is CacheLayout.STREAMS else 0
        self.copy_cost = model.copy_cost(cells, settings.type_k, settings.type_v)
        """What `copy` costs; None: too much to be ever worth it."""
        self.device_rows: DeviceRows | None = None
        """Where the logits stay on the device; None: they come home with each pass."""
        self.on_pass: Callable[[int], None] | None = None
        """Called with n_tokens before each pass."""

    def _parameters(self) -> ctypes.Structure:
        settings = self.settings
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = settings.cells
        parameters.n_seq_max = settings.sequences
        parameters.n_batch = parameters.n_ubatch = settings.ubatch
        parameters.n_threads = parameters.n_threads_batch = self.threads
        parameters.n_outputs_max_per_seq = 0  # as many as the batch has
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

    def _cache_bytes(self) -> int:
        """The memory for its KV cells and recurrent states."""
        return _kv_bytes(self.model, self.settings)

    def use_threads(self, threads: int) -> None:
        """Compute with this number of threads from the next pass on. Do not call it during a pass."""
        self.threads = threads
        llama.llama_set_n_threads(self.handle, threads, threads)

    def decode(self, rows: BatchTokens, states: Logits | None = None) -> None:
        """Compute one forward pass. If it fails, `rollback` can remove everything it left in the KV cache.

        `states` (contiguous, `n_embd` floats for each token) are used instead of the tokens' embeddings.
        """
        if self.on_pass is not None:
            self.on_pass(len(rows))
        batch = self._batch.fill(rows, states, both=self._reads_both, every=self._every_output)
        choices = self.model.choices
        with self.model.experts or nullcontext():
            if choices is not None and states is None:
                choices.tell_tokens(self._batch.tokens[: len(rows)], self._batch.outputs[: len(rows)])
            code = llama.llama_decode(self.handle, batch)
        if code:
            raise decode_error(code, len(rows))
        if self.device_rows is not None and not self.device_rows.begin(rows.outputs):
            self.fetch_logits()
            raise TwdError(FailureCode.INTERNAL, "the logits of a pass were not on the device; others come home now")

    def leave_logits(self, place: LogitsPlace = LogitsPlace.CARD) -> bool:
        """Leave logits where they are computed from the next pass on. Returns false if that is another place, or if
        this build or the device cannot do it."""
        if self.device_rows is None:
            sequences, size = self.settings.sequences, self.model.vocab.size
            self.device_rows = DeviceRows.open(self.handle, sequences, size, place)
        return self.device_rows is not None

    def fetch_logits(self) -> None:
        """Bring all logits home from the next pass on."""
        if self.device_rows is not None:
            self.device_rows.close()
            self.device_rows = None

    def peak(self, row: int) -> int | None:
        """The token with the largest logit at index `row` of the last batch, if that is known without the logits."""
        token: int = -1 if self.device_rows is None else self.device_rows.pick(row).token
        return token if token >= 0 else None

    def choice(self, row: int, rule: RuleHolder, history: Sequence[int]) -> int | None:
        """The token that a rule chooses behind `history` at index `row` of the last batch, if that is known without all
        of the logits."""
        token: int = -1 if self.device_rows is None else self.device_rows.choose(row, rule, history).token
        return token if token >= 0 else None

    def logits(self, row: int) -> Logits:
        """The logits of the token at index `row` of the last batch: a view that the next pass overwrites."""
        if self.device_rows is not None:
            return self.device_rows.logits(row)
        pointer = llama.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise TwdError(FailureCode.INTERNAL, f"row {row} of the last pass gave no logits")
        address = ctypes.addressof(pointer.contents)
        view = self._views.get(address)
        if view is None:
            view = self._views[address] = np.ctypeslib.as_array(self._row_type.from_address(address))
        return view

    def embedding(self, row: int) -> Logits:
        """The last hidden state of the token at index `row` of the last batch: a view that the next pass overwrites."""
        pointer = llama.llama_get_embeddings_ith(self.handle, row)
        if not pointer:
            raise TwdError(FailureCode.INTERNAL, f"row {row} of the last pass gave no hidden state")
        return np.ctypeslib.as_array(pointer, (self.model.n_embd,))

    def rollback(self, sequence: int, position: int) -> bool:
        """Remove the tokens of a sequence from `position` on. Returns false if this model cannot do that."""
        return bool(llama.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def clear(self, sequence: int) -> None:
        """Remove all tokens of a sequence."""
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Copy sequence `source` to `target`, which is empty. With the layout STREAMS that copies the whole buffer, or
        only what holds tokens, where that is quicker."""
        saves = self.copy_cost is not None and self.copy_cost.saves_cells(self.end(source))
        if not (saves and self._copy_held(source, target)):
            llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def _copy_held(self, source: int, target: int) -> bool:
        """Save all that a sequence holds, and load it into another one. Returns false if llama.cpp refuses that."""
        saved = np.empty(llama.llama_state_seq_get_size_ext(self.handle, source, _ALL), np.uint8)
        given = (saved.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), saved.size)
        got = llama.llama_state_seq_get_data_ext(self.handle, *given, source, _ALL)
        if got and got == llama.llama_state_seq_set_data_ext(self.handle, *given, target, _ALL) == saved.size:
            return True
        self.clear(target)
        return False

    def end(self, sequence: int) -> int:
        """The position after the last token of a sequence; 0 if it is empty."""
        return int(llama.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    @property
    def snapshots(self) -> int:
        """How many tokens a sequence can really go back by snapshots; 0 if the architecture has no snapshots."""
        return int(llama.llama_n_rs_seq(self.handle))

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep a recurrent state instead of KV cells for each token."""
        return self.model.recurrent

    def state_bytes(self, sequence: int) -> int:
        """The number of bytes that `save_state` would save now."""
        return int(llama.llama_state_seq_get_size_ext(self.handle, sequence, _PARTIAL))

    def save_state(self, sequence: int, into: SavedState | None = None) -> SavedState | None:
        """Save the recurrent state of a sequence, without KV cells of single tokens. None if it cannot be saved.

        `into` is overwritten if its size fits, because allocating new memory takes as long as the saving.
        """
        size = self.state_bytes(sequence)
        saved = into if into is not None and into.size == size else np.empty(size, np.uint8)
        pointer = saved.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        done = llama.llama_state_seq_get_data_ext(self.handle, pointer, saved.size, sequence, _PARTIAL)
        return saved if saved.size and done == saved.size else None

    def load_state(self, sequence: int, saved: SavedState) -> bool:
        """Restore a saved recurrent state; the KV cells of single tokens do not change. Returns whether it worked."""
        pointer = saved.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        done = llama.llama_state_seq_set_data_ext(self.handle, pointer, saved.size, sequence, _PARTIAL)
        return bool(done == saved.size)

    def synchronize(self) -> None:
        """Wait until the last pass is complete."""
        llama.llama_synchronize(self.handle)

    def close(self) -> None:
        """Free the context. A second call does nothing."""
        if self.handle:
            self.fetch_logits()
            self._views.clear()
            llama.llama_free(self.handle)
            self.handle = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def kv_type(name: str) -> int:
    """ggml's type number for a KV cache type such as `f16`."""
    try:
        return int(GGMLQuantizationType[name.upper()])
    except KeyError:
        raise TwdError(
            FailureCode.BAD_REQUEST, f"unknown KV cache type {name!r}; use f16, bf16, q8_0 or q4_0"
        ) from None


def _places(model: LoadedGguf) -> int:
    """How many positions a hidden state has: four in models that also place pictures."""
    placed = (llama.LLAMA_ROPE_TYPE_MROPE, llama.LLAMA_ROPE_TYPE_IMROPE)
    return _SPARE + 1 if llama.llama_model_rope_type(model.handle) in placed else 1


def _kv_bytes(model: LoadedGguf, settings: ContextSettings) -> int:
    if model.offloads:
        return 0
    states = model.info.state_bytes * (1 + settings.snapshots) * settings.parallel
    return model.info.kv_bytes_per_token(settings.type_k, settings.type_v) * settings.cells + states


def decode_error(code: int, rows: int) -> TwdError:
    """The TwdError for what `llama_decode` returned."""
    if code == _NO_ROOM:
        return TwdError(FailureCode.CONTEXT_OVERFLOW, f"the KV cache has no room for {rows} more tokens")
    if code == _ABORTED:
        return TwdError(FailureCode.CANCELLED, "the pass was aborted")
    return TwdError(
        FailureCode.INTERNAL, f"llama.cpp failed to decode {rows} rows ({code}): {last_errors() or 'no reason'}"
    )
