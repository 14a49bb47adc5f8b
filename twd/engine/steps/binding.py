"""The loop over steps that is built into llama.cpp (contrib/llama/steps.cpp), as Python calls it."""

import ctypes
import math
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twd.decoding.steps import PickRule
from twd.decoding.window import Logits
from twd.engine.library import llama
from twd.wire.job import Sampling

_POINTER: Final = ctypes.c_void_p
_INT, _LONG, _FLOAT, _DOUBLE = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double
_WORD: Final = 2**64 - 1


class NativeRule(ctypes.Structure):
    """A pick rule (`twd_rule`)."""

    _fields_ = [
        ("seed", ctypes.c_uint64),
        ("temperature", _DOUBLE),
        ("top_p", _DOUBLE),
        ("min_p", _FLOAT),
        ("top_k", _INT),
        ("repeat_last_n", _INT),
        ("repeat", _FLOAT),
        ("frequency", _FLOAT),
        ("presence", _FLOAT),
        ("n_bias", _INT),
        ("n_banned", _INT),
        ("bias_ids", _POINTER),
        ("bias", _POINTER),
        ("banned", _POINTER),
    ]


class NativePick(ctypes.Structure):
    """One pick (`twd_pick`)."""

    _fields_ = [("token", _INT), ("other", _INT), ("sure", _DOUBLE), ("other_sure", _DOUBLE)]


class NativeText(ctypes.Structure):
    """One text of a run (`twd_text`)."""

    _fields_ = [
        ("rule", _POINTER),
        ("tokens", _POINTER),
        ("sure", _POINTER),
        ("others", _POINTER),
        ("other_sure", _POINTER),
        ("least", _DOUBLE),
        ("count", _INT),
        ("position", _INT),
        ("output", _INT),
        ("repeats", _INT),
        ("judges", _INT),
        ("asks", _INT),
    ]


class NativeRow(ctypes.Structure):
    """One row of the later passes (`twd_row`)."""

    _fields_ = [("slot", _INT), ("text", _INT), ("position", _INT), ("moves", _INT), ("output", _INT)]


class NativeEnd(ctypes.Structure):
    """Where the padding of a slot begins (`twd_end`)."""

    _fields_ = [("slot", _INT), ("position", _INT), ("moves", _INT)]


class NativeRun(ctypes.Structure):
    """A run and its results (`twd_run`)."""

    _fields_ = [
        ("tokens", _POINTER),
        ("positions", _POINTER),
        ("slots", _POINTER),
        ("outputs", _POINTER),
        ("rows", _POINTER),
        ("trims", _POINTER),
        ("texts", _POINTER),
        ("ends", _POINTER),
        ("halt", _POINTER),
        ("budget_ns", _LONG),
        ("n_first", _INT),
        ("n_rows", _INT),
        ("n_trims", _INT),
        ("n_texts", _INT),
        ("steps", _INT),
        ("done", _INT),
        ("code", _INT),
        ("there", _POINTER),
    ]


@cache
def steps_available() -> bool:
    """Whether this build of llama.cpp has the loop."""
    return _find("twd_steps_run") is not None


def library() -> ctypes.CDLL:
    """The library that has the loop: the one that the bindings have loaded."""
    return llama._lib  # type: ignore[no-any-return]


def _find(name: str) -> Any:
    return getattr(library(), name, None)


class NativeSteps:
    """The loop over one context. Calls let other threads of Python run meanwhile."""

    def __init__(self, context: int) -> None:
        open_steps, self._run = _find("twd_steps_open"), _find("twd_steps_run")
        self._asked, self._close = _find("twd_steps_asked"), _find("twd_steps_close")
        open_steps.argtypes, open_steps.restype = [_POINTER], _POINTER
        self._run.argtypes, self._run.restype = [_POINTER, _POINTER], None
        self._asked.argtypes, self._asked.restype = [_POINTER, _INT], _POINTER
        self._close.argtypes, self._close.restype = [_POINTER], None
        self._handle: int | None = open_steps(context)

    def run(self, run: NativeRun) -> None:
        """Compute a run; its results are in its fields."""
        self._run(self._handle, ctypes.byref(run))

    def asked(self, text: int) -> int:
        """The address of the logits for which a text asks Python to choose."""
        return self._asked(self._handle, text) or 0

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        if self._handle:
            self._close(self._handle)
            self._handle = None


class NativePicker:
    """Picks single tokens of one vocabulary by rules."""

    def __init__(self, vocabulary: int) -> None:
        open_picker, self._pick, self._close = (_find(f"twd_picker_{name}") for name in ("open", "pick", "close"))
        open_picker.argtypes, open_picker.restype = [_INT], _POINTER
        self._pick.argtypes = [_POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER]
        self._pick.restype = None
        self._close.argtypes, self._close.restype = [_POINTER], None
        self._handle: int | None = open_picker(vocabulary)

    def pick(self, logits: Logits, rule: "RuleHolder", history: npt.NDArray[np.int32], judges: int = 0) -> NativePick:
        """The token behind `history`; -1: the sampler must choose. `judges`: 1 for its chance, 2 for another choice."""
        found = NativePick()
        text = (history.ctypes.data, len(history))
        self._pick(self._handle, logits.ctypes.data, rule.address, *text, judges, ctypes.byref(found))
        return found

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        if self._handle:
            self._close(self._handle)
            self._handle = None


class RuleHolder:
    """A pick rule with the arrays that it points to."""

    def __init__(self, rule: PickRule) -> None:
        sampling = rule.sampling
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), np.int32)
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32)
        self._banned = np.array(rule.banned, np.int32)
        self.struct = NativeRule(
            seed=rule.seed & _WORD,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            min_p=np.float32(math.log(sampling.min_p)) if sampling.min_p > 0.0 else -math.inf,
            top_k=min(sampling.top_k, 2**31 - 1),
            repeat_last_n=sampling.repeat_last_n if _penalises(sampling) else 0,
            repeat=sampling.repeat_penalty,
            frequency=sampling.frequency_penalty,
            presence=sampling.presence_penalty,
            n_bias=len(self._bias_ids),
            n_banned=len(self._banned),
            bias_ids=self._bias_ids.ctypes.data,
            bias=self._bias.ctypes.data,
            banned=self._banned.ctypes.data,
        )

    @property
    def address(self) -> int:
        """The address of the rule. It is valid as long as this object lives."""
        return ctypes.addressof(self.struct)


def _penalises(sampling: Sampling) -> bool:
    return (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)
