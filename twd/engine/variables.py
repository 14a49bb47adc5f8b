"""Sets environment variables for llama.cpp: when this module is imported, and again when an engine starts."""

import os


def set_variables() -> None:
    """Set the environment variables that llama.cpp and its libraries read; values that are already set stay.

    GOMP_SPINCOUNT: libgomp reads it once, when it is loaded. By default its threads spin for milliseconds at every
    barrier. Then two engines on the same cores (a target and its drafter) slow each other down a hundred times. A low
    spin count costs less than 1 %.

    GGML_CPU_TILED_MM: for K and IQ quants, llama.cpp's kernels for 8 tokens and more add in another order than those
    for fewer tokens, so a window would differ from single steps. llama.cpp reads the variable once, at the first pass
    of a process. Types with our own kernels lose no speed; for others (IQ1 to IQ3, and all types in a build without
    our kernels), prompts take longer.

    CUDA_DEVICE_ORDER: CUDA lists the fastest GPU first, nvidia-smi lists GPUs by PCI address. This makes both the same.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("GGML_CPU_TILED_MM", "0")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


set_variables()
