"""The environment of processes that compute, by kind of device; what the settings say wins."""

import pytest

from twd.process.compute import backend_of, engine_environment, gpu_layers
from twd.settings.model import EngineConfig, GpuConfig, ModelConfig, PoolConfig, Settings

TWO = PoolConfig(gpus=(GpuConfig(vram_gb=16), GpuConfig(vram_gb=16)))
SEVERAL = {"HSA_ENABLE_SDMA": "0", "GPU_MAX_HW_QUEUES": "1"}


@pytest.mark.parametrize(
    ("settings", "cards", "several"),
    [
        (Settings(pool=TWO), 0, True),
        (Settings(), 2, True),
        (Settings(), 1, False),
        (Settings(pool=PoolConfig(gpus=(GpuConfig(vram_gb=16),))), 0, False),
    ],
)
def test_several_amd_cards_get_what_they_need(settings: Settings, cards: int, several: bool) -> None:
    found = engine_environment(settings, "hip", cards)
    assert (found.items() >= SEVERAL.items()) is several


@pytest.mark.parametrize("backend", ["auto", "cuda", "metal", "vulkan", "cpu"])
def test_other_devices_do_not(backend: str) -> None:
    assert not SEVERAL.keys() & engine_environment(Settings(pool=TWO), backend, 4).keys()


def test_the_settings_win() -> None:
    settings = Settings(engine=EngineConfig(env={"HSA_ENABLE_SDMA": "1", "MINE": "x"}), pool=TWO)
    assert engine_environment(settings, "hip") == {
        "GGML_VK_VISIBLE_DEVICES": "",
        "HSA_ENABLE_SDMA": "1",
        "GPU_MAX_HW_QUEUES": "1",
        "MINE": "x",
    }


def test_a_card_is_not_seen_by_two_backends() -> None:
    assert engine_environment(Settings(), "auto") == {}
    assert "CUDA_VISIBLE_DEVICES" in engine_environment(Settings(), "vulkan")
    assert "CUDA_VISIBLE_DEVICES" not in engine_environment(Settings(), "hip")  # AMD's runtime heeds it too
    assert set(engine_environment(Settings(), "cpu").values()) == {"", "-1"}


def test_a_model_may_compute_elsewhere_than_the_rest() -> None:
    settings = Settings(engine=EngineConfig(backend="cuda"))
    assert backend_of(settings) == "cuda"
    assert backend_of(settings, ModelConfig(path="a")) == "cuda"
    assert backend_of(settings, ModelConfig(path="a", backend="cpu")) == "cpu"
    assert gpu_layers(settings, ModelConfig(path="a"), 99) == 99
    assert gpu_layers(settings, ModelConfig(path="a", gpu_layers=7), 99) == 7
    assert gpu_layers(settings, ModelConfig(path="a", gpu_layers=7, backend="cpu"), 99) == 0
