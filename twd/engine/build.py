"""Names the build of llama.cpp in use. Logits are equal bit for bit only with the same build and CPU instructions."""

from functools import cache

from twd.engine.kernels import any_kernels
from twd.engine.library import llama, version


def engine_build() -> str:
    """The build and the CPU features that it uses, in one line."""
    told = llama.llama_print_system_info()
    uses = [part.strip().removesuffix(" = 1") for part in told.decode("utf-8", "replace").split("|")]
    ours = ["FEW_ROWS"] if any_kernels() else []
    return " ".join([version(), *sorted([part for part in uses if part] + ours)])[:1024]


def lacks_kernels() -> bool:
    """Whether the build lacks our kernels, although they support its CPU instructions."""
    return {"AVX2", "FMA", "F16C"} <= set(engine_build().split()) and not any_kernels()


@cache
def has_amx() -> bool:
    """Whether the build has kernels for AMX. With some compilers, these kernels crash the process."""
    return "AMX_INT8" in engine_build()
