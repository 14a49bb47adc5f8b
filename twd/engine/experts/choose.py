"""How much memory a model's experts get here, before it is loaded."""

import mmap
from pathlib import Path

from twd.engine.context import CTX_SIZE_MAX, EXACT_ROWS
from twd.engine.experts.budget import ExpertWish, MachineRoom, expert_budget
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import can_stream
from twd.engine.host_memory.limits import available_bytes
from twd.gguf_tools.inspect import inspect


def experts_in_memory(path: Path, wish: ExpertWish, *, tokens: int, sessions: int, types: tuple[str, str]) -> int:
    """The bytes for the experts of the model at `path`; 0: all of it is loaded as usual. Raises TwdError with numbers.

    `tokens` is the context of each of so many sessions, 0 for what the model was made for; `types` are those of the
    KV cache.
    """
    layout = None if wish.stream == "off" else expert_layout(path)
    if layout is None and wish.stream != "on":
        return 0
    other = cache_bytes(path, tokens=tokens, sessions=sessions, types=types)
    here = MachineRoom(available_bytes(), other, mmap.PAGESIZE, can_stream())
    return expert_budget(layout, wish, here)


def cache_bytes(path: Path, *, tokens: int, sessions: int, types: tuple[str, str]) -> int:
    """The bytes of the KV cache for so many sessions of so many tokens, 0 for what the model was made for."""
    info = inspect(path)
    length = min(tokens or CTX_SIZE_MAX, info.context_length or CTX_SIZE_MAX)
    return info.kv_bytes_per_token(*types) * (length + EXACT_ROWS) * sessions
