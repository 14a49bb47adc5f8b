"""The binding's structs fit the library: what the library fills in by default is where the binding reads it."""

import ctypes
from typing import Any

import pytest

from twd.engine.library import llama, start

CONTEXT = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "pooling_type": llama.LLAMA_POOLING_TYPE_UNSPECIFIED,
    "flash_attn_type": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "type_k": llama.GGML_TYPE_F16,
    "type_v": llama.GGML_TYPE_F16,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "swa_full": True,
    "kv_unified": False,
}
MODEL = {
    "split_mode": llama.LLAMA_SPLIT_MODE_LAYER,
    "main_gpu": 0,
    "vocab_only": False,
    "use_extra_bufts": True,
}
FUNCTIONS = (
    "llama_n_rs_seq",
    "llama_state_seq_get_size_ext",
    "llama_state_seq_get_data_ext",
    "llama_state_seq_set_data_ext",
    "llama_model_is_recurrent",
    "llama_model_is_hybrid",
    "llama_memory_seq_rm",
    "llama_memory_seq_cp",
)
ADVICE = "; the binding no longer fits the library: see docs/following-llama-cpp.md"


def read(params: ctypes.Structure, name: str) -> Any:
    return getattr(params, name, "no such field")


@pytest.mark.parametrize(("make", "expected"), [("context", CONTEXT), ("model", MODEL)])
def test_defaults_are_where_the_binding_reads_them(make: str, expected: dict[str, Any]) -> None:
    start()
    params = getattr(llama, f"llama_{make}_default_params")()
    for name, value in expected.items():
        assert read(params, name) == value, (
            f"llama_{make}_params.{name} is {read(params, name)!r}, not {value!r}{ADVICE}"
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_we_call_are_there(name: str) -> None:
    assert callable(getattr(llama, name, None)), f"{name} is gone{ADVICE}"
