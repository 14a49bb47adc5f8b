"""Real models for tests: written once to a cache folder, loaded once for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.tiny_models import write_llama, write_mamba
from twd.engine.demo_model import demo_model
from twd.engine.model import LoadedGguf, ModelLoadOptions


@pytest.fixture(scope="session")
def model_cache() -> Path:
    return Path(os.environ.get("TWD_TEST_CACHE", Path.home() / ".cache" / "twd-test"))


@pytest.fixture(scope="session")
def q4_path(model_cache: Path) -> Path:
    return demo_model(model_cache, "q4_0")


@pytest.fixture(scope="session")
def f16_path(model_cache: Path) -> Path:
    return demo_model(model_cache, "f16")


@pytest.fixture(scope="session")
def q4(q4_path: Path) -> Iterator[LoadedGguf]:
    with LoadedGguf.load(ModelLoadOptions(q4_path)) as model:
        yield model


@pytest.fixture(scope="session")
def f16(f16_path: Path) -> Iterator[LoadedGguf]:
    with LoadedGguf.load(ModelLoadOptions(f16_path)) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("tiny") / "tiny-llama.gguf")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[LoadedGguf]:
    """Random float weights: a pass takes a tenth of a millisecond."""
    with LoadedGguf.load(ModelLoadOptions(tiny_path)) as model:
        yield model


@pytest.fixture(scope="session")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    """A model that cannot roll back."""
    with LoadedGguf.load(ModelLoadOptions(write_mamba(tmp_path_factory.mktemp("tiny") / "tiny-mamba.gguf"))) as model:
        yield model
