"""Which build of llama.cpp computes here: logits are equal bit for bit within one build and instruction set only."""

import llama_cpp

from twd.engine.library import llama


def engine_build() -> str:
    """The build and what it makes use of, in one line."""
    told = llama.llama_print_system_info()
    uses = [part.strip().removesuffix(" = 1") for part in told.decode("utf-8", "replace").split("|")]
    return " ".join([llama_cpp.__version__, *sorted(part for part in uses if part)])[:1024]
