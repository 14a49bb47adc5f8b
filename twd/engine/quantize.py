"""Rewrites a GGUF file with another weight type, using llama.cpp. The result appears complete or not at all."""

import ctypes
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twd.engine.library import last_errors, llama, start
from twd.gguf_tools.inspect import inspect
from twd.process.cores import usable_cores
from twd.wire.failures import FailureCode, TwdError

_log = logging.getLogger("twd.engine.quantize")
_FULL_BYTES = 1 << 20
"""With less than this a disk is full; a tensor may be larger than what is left."""
KINDS = ("q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "bf16", "f16", "f32")


def file_type(kind: str) -> int:
    """llama.cpp's number for a weight type such as `q4_0`."""
    name = "LLAMA_FTYPE_ALL_F32" if kind.lower() == "f32" else f"LLAMA_FTYPE_MOSTLY_{kind.upper()}"
    code = getattr(llama, name, None)
    if code is None:
        raise TwdError(FailureCode.BAD_REQUEST, f"unknown weight type {kind!r}; use one of {', '.join(KINDS)}")
    return int(code)


def _parameters(kind: str, threads: int) -> Any:
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = file_type(kind)
    parameters.allow_requantize = True
    parameters.nthread = threads or usable_cores()
    return parameters


def _reason(folder: Path) -> str:
    """Return why llama.cpp did not write into this folder; it says nothing of a full disk."""
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        return f"the disk of {folder} is full; free some space there, or set TWD_HOME to a folder on another disk"
    return last_errors() or "no reason"


def quantize(source: Path, target: Path, kind: str, threads: int = 0) -> Path:
    """Write `source` to `target` with weights of `kind`; returns `target`. A quantized source loses more precision."""
    start()
    inspect(source)
    parameters = _parameters(kind, threads)
    target.parent.mkdir(parents=True, exist_ok=True)
    _log.info("writing %s as %s, once", target.name, kind)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        last_errors()
        if llama.llama_model_quantize(str(source).encode(), name.encode(), ctypes.byref(parameters)):
            raise TwdError(FailureCode.MODEL_LOAD, f"cannot write {target} as {kind}: {_reason(target.parent)}")
        unfinished.chmod(0o644)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target
