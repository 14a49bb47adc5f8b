"""Which build of llama.cpp computes here: logits are equal bit for bit within one build and instruction set only."""

from functools import cache

from twd.engine.kernels import any_kernels
from twd.engine.library import llama, version


def engine_build() -> str:
    """The build and what it makes use of, in one line."""
    told = llama.llama_print_system_info()
    uses = [part.strip().removesuffix(" = 1") for part in told.decode("utf-8", "replace").split("|")]
    ours = ["FEW_ROWS"] if any_kernels() else []
    return " ".join([version(), *sorted([part for part in uses if part] + ours)])[:1024]


def lacks_kernels() -> bool:
    """Whether it was built without our kernels, though for a processor that they are for."""
    return {"AVX2", "FMA", "F16C"} <= set(engine_build().split()) and not any_kernels()


@cache
def has_amx() -> bool:
    """Whether it has kernels for AMX: some compilers make them so that they end the process that uses them."""
    return "AMX_INT8" in engine_build()
