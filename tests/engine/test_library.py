"""The door to llama.cpp."""

import os

import pytest

from twd.engine import library


def test_an_engine_finds_its_variables_where_llama_cpp_was_loaded_by_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in one that was forked: the environment is its own, and llama.cpp looks only when it computes."""
    monkeypatch.delenv("GGML_CPU_TILED_MM")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    library.start.cache_clear()
    library.start()
    assert os.environ["GGML_CPU_TILED_MM"] == "0"
    assert os.environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST", "what the user says holds"


def test_a_device_tells_where_it_is_if_it_is_anywhere() -> None:
    for device in library.devices():
        told = library._properties(device)
        assert (told.name.decode(), told.memory_total) == (device.name, device.total_bytes), "the layout is ggml's"
        assert bool(library.place_of(device)) <= device.is_gpu


def test_a_backend_that_is_not_there_is_told_and_left_aside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library.start()
    before = library.devices()
    monkeypatch.setenv("GGML_BACKEND_PATH", "/nowhere/libggml-none.so")
    library._load_named_backend()
    assert "the backend /nowhere/libggml-none.so of GGML_BACKEND_PATH cannot be loaded" in caplog.text
    assert library.devices() == before
