"""Stopping a pass while it runs, from another thread."""

import ctypes
import os

from twd.engine.library import llama

_NEVER = llama.ggml_abort_callback()


class AbortFlag:
    """A byte that llama.cpp looks at between the steps of a pass. Any thread may set it.

    What looks is C's own `strlen`, which is not zero as soon as the first byte is not: so no Python runs in a decode.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """The pass that runs, or the next one, is not worth its time."""
        self._byte[0] = b"\x01"

    def clear(self) -> None:
        """Passes are wanted again."""
        self._byte[0] = b"\0"

    @property
    def is_set(self) -> bool:
        """Whether a pass would be stopped."""
        return self._byte[0] != b"\0"

    @property
    def address(self) -> int:
        """Where the byte is."""
        return ctypes.addressof(self._byte)


def watch(context: int, flag: AbortFlag | None) -> None:
    """Make a context's passes look at a flag, or at none."""
    if flag is None:
        llama.llama_set_abort_callback(context, _NEVER, None)
    else:
        llama.llama_set_abort_callback(context, _strlen, ctypes.c_void_p(flag.address))


_strlen = ctypes.cast(ctypes.CDLL("msvcrt" if os.name == "nt" else None).strlen, llama.ggml_abort_callback)
