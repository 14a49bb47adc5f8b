"""How many of their threads passes use: fewer while other programs take the cores (contrib/llama/thread_choice.h)."""

import ctypes
from typing import Self

from msgspec.structs import replace

from twd.engine.library import find_ggml, ggml
from twd.wire.leases.base import CoreFacts

_HANDLE = [ctypes.c_void_p]


def threads_in_use(planned: int) -> int:
    """Return how many threads passes of few rows use now that were planned with so many."""
    ask = find_ggml("twd_threads_usual", [ctypes.c_int], ctypes.c_int)
    return planned if ask is None or planned < 1 else int(ask(planned))


def with_threads_in_use(share: CoreFacts | None) -> CoreFacts | None:
    """Return a share of cores with the threads that are in use, where those are fewer."""
    used = 0 if share is None else threads_in_use(share.threads)
    return replace(share, in_use=used) if share is not None and used < share.threads else share


def keep_all_threads(wanted: bool) -> None:
    """Whether passes of this process use all planned threads from now on, whatever they cost."""
    keep = find_ggml("twd_threads_keep", [ctypes.c_bool], None)
    if keep is not None:
        keep(wanted)


class PassThreads:
    """The choice by itself, without passes."""

    def __init__(self, planned: int) -> None:
        self._handle = ggml("twd_thread_choice_new", [ctypes.c_int], ctypes.c_void_p)(planned)

    def begin(self, shape: int) -> int:
        """Return how many threads a pass of this shape is to use."""
        return int(ggml("twd_thread_choice_begin", [*_HANDLE, ctypes.c_uint64], ctypes.c_int)(self._handle, shape))

    def end(self, shape: int, used: int, ms: float) -> None:
        """Note what such a pass took with so many threads."""
        types = [*_HANDLE, ctypes.c_uint64, ctypes.c_int, ctypes.c_double]
        ggml("twd_thread_choice_end", types, None)(self._handle, shape, used, ms)

    def close(self) -> None:
        """Free the memory."""
        ggml("twd_thread_choice_free", _HANDLE, None)(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
