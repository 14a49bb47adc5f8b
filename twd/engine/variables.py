"""The environment in which llama.cpp runs; set when this is imported, and again where an engine starts."""

import os


def set_variables() -> None:
    """What llama.cpp, and what it stands on, look for in the environment.

    libgomp reads its variable once, when it is loaded. By default its threads spin for milliseconds at every barrier,
    and two engines on the same cores (a target and its drafter) slow each other down a hundredfold; few spins cost less
    than 1 %.

    llama.cpp's kernels for eight rows and more of K and IQ quants sum up in another order than those for fewer, so that
    a window would disagree with single steps. It looks once, at the first pass of a process. Types that our own kernels
    take lose nothing by it; of others (IQ1 to IQ3, and all where a build lacks ours), prompts take longer.

    CUDA numbers the quickest card first, nvidia-smi by their places in the machine. One order is enough.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("GGML_CPU_TILED_MM", "0")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


set_variables()
