"""How many of their threads passes use: fewer while other programs take the cores (contrib/llama/thread_choice.h)."""

import ctypes

from msgspec.structs import replace

from twd.engine.library import find_ggml
from twd.wire.leases.base import CoreFacts


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
