"""Aborts a running pass from another thread."""

import ctypes
import os

from twd.engine.library import llama

_NEVER = llama.ggml_abort_callback()


class AbortFlag:
    """A byte that llama.cpp checks between the steps of a pass. Any thread may set it.

    The abort callback is C's `strlen` on this byte: it returns non-zero when the byte is set. So a decode never waits
    for Python.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Abort the running pass, and all later ones until `clear`."""
        self._byte[0] = b"\x01"

    def clear(self) -> None:
        """Let passes run again."""
        self._byte[0] = b"\0"

    @property
    def is_set(self) -> bool:
        """Whether passes are aborted."""
        return self._byte[0] != b"\0"

    @property
    def address(self) -> int:
        """The address of the byte."""
        return ctypes.addressof(self._byte)


def watch(context: int, flag: AbortFlag | None) -> None:
    """Make the passes of a context check a flag; None: no flag."""
    if flag is None:
        llama.llama_set_abort_callback(context, _NEVER, None)
    else:
        llama.llama_set_abort_callback(context, _strlen, ctypes.c_void_p(flag.address))


_strlen = ctypes.cast(ctypes.CDLL("msvcrt" if os.name == "nt" else None).strlen, llama.ggml_abort_callback)
