"""What a graph from outside says of its tensors is checked: one with a spoilt shape stops the process.

Each case runs in a process of its own, which an assertion ends.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from tests.engine.products import _F16, _F32, _I32, _Graph
from twd.engine.kernels import has_attention
from twd.engine.library import ggml

pytestmark = pytest.mark.skipif(not has_attention(64, 64), reason="this build of llama.cpp has no kernels of ours")
_POINTER = ctypes.c_void_p
_NE, _NB = 16, 48
"""Where a tensor keeps its sizes and its strides."""
SIZES = {"q": (64, 3, 4), "k": (64, 40, 2), "v": (64, 40, 2), "mask": (40, 3), "weights": (64, 8), "inputs": (64, 3)}


def number(tensor: int, at: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(tensor + at)


def spoilt_attention(name: str, at: int, value: int) -> None:
    """Compute attention after one number of one of its tensors was changed."""
    with _Graph(1 << 20) as graph:
        made = {key: tensor(graph, _F16 if key in ("k", "v", "mask") else _F32, key) for key in ("q", "k", "v", "mask")}
        ask = ggml("ggml_flash_attn_ext", [_POINTER] * 5 + [ctypes.c_float] * 3, _POINTER)
        made["out"] = ask(graph.context, *made.values(), 0.125, 0.0, 0.0)
        made["sinks"] = graph.tensor(_F32, (4,), bytes(16))
        ggml("ggml_flash_attn_ext_add_sinks", [_POINTER] * 2, None)(made["out"], made["sinks"])
        number(made[name], at).value = value
        graph.compute(made["out"], 1, 1)


def spoilt_product(name: str, at: int, value: int) -> None:
    """The same for a product of a matrix."""
    with _Graph(1 << 20) as graph:
        made = {key: tensor(graph, _F16 if key == "weights" else _F32, key) for key in ("weights", "inputs")}
        made["out"] = ggml("ggml_mul_mat", [_POINTER] * 3, _POINTER)(graph.context, *made.values())
        number(made[name], at).value = value
        graph.compute(made["out"], 1, 1)


def spoilt_choice(_: str, __: int, value: int) -> None:
    """A row chooses an expert that is not there."""
    with _Graph(1 << 20) as graph:
        matrices = graph.tensor(_F32, (64, 8, 2), np.zeros((2, 8, 64), np.float32).tobytes())
        inputs = graph.tensor(_F32, (64, 1, 3), np.zeros((3, 1, 64), np.float32).tobytes())
        chosen = graph.tensor(_I32, (1, 3), np.full((3, 1), value, np.int32).tobytes())
        ask = ggml("ggml_mul_mat_id", [_POINTER] * 4, _POINTER)
        graph.compute(ask(graph.context, matrices, inputs, chosen), 1, 8)


def tensor(graph: _Graph, kind: int, name: str) -> int:
    shape = SIZES[name]
    return graph.tensor(kind, shape, bytes(int(np.prod(shape)) * (2 if kind == _F16 else 4)))


CASES = [
    ("spoilt_attention", "out", _NE, 80),
    ("spoilt_attention", "out", _NE + 8, 5),
    ("spoilt_attention", "out", _NE + 16, 4),
    ("spoilt_attention", "out", _NB + 8, 252),
    ("spoilt_attention", "q", _NE, 80),
    ("spoilt_attention", "q", 0, _F16),
    ("spoilt_attention", "k", _NE + 16, 0),
    ("spoilt_attention", "v", _NE + 16, 3),
    ("spoilt_attention", "v", _NE + 8, 39),
    ("spoilt_attention", "mask", _NE, 39),
    ("spoilt_attention", "mask", _NE + 8, 2),
    ("spoilt_attention", "mask", _NE + 16, 0),
    ("spoilt_attention", "sinks", _NE, 3),
    ("spoilt_attention", "sinks", _NE + 8, 0),
    ("spoilt_product", "out", _NE, 9),
    ("spoilt_product", "out", _NE + 8, 4),
    ("spoilt_product", "inputs", _NE, 96),
    ("spoilt_product", "weights", _NE + 16, 0),
    ("spoilt_product", "weights", _NB + 8, 127),
    ("spoilt_choice", "", 0, 2),
    ("spoilt_choice", "", 0, -1),
]


def main() -> None:
    """Compute each case in a process that is forked from this one, and print how all of them ended, as JSON."""
    print(json.dumps([_ended(*case) for case in CASES]))


def _ended(work: str, name: str, at: int, value: int) -> tuple[int, str]:
    with tempfile.TemporaryFile() as said:
        if not (pid := os.fork()):
            os.dup2(said.fileno(), 2)
            globals()[work](name, at, value)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return code, said.read().decode(errors="replace")


@pytest.fixture(scope="module")
def ended() -> list[tuple[int, str]]:
    """Exit code and errors of each case. To start Python for each would take longer than all of them."""
    script = "from tests.engine.test_kernel_checks import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_what_a_graph_says_of_its_tensors_is_checked(ended: list[tuple[int, str]], number: int) -> None:
    code, said = ended[number]
    assert code, "it was computed"
    assert "GGML_ASSERT" in said or "Assertion" in said, said
