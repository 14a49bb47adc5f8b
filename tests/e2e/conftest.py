"""One demo for a module: the real processes, the real broker, a real small model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.cli.running import Installed, running
from tests.model_fixtures import model_cache

__all__ = ["client", "client_of", "demo", "model_cache"]


@pytest.fixture(scope="module")
def demo(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with running(tmp_path_factory.mktemp("demo") / "home", "--demo", weights=model_cache) as installed:
        yield installed


@pytest.fixture
def client(demo: Installed) -> Iterator[OpenAI]:
    with client_of(demo) as client:
        yield client


def client_of(installed: Installed) -> OpenAI:
    """A client that hides no failure by asking again."""
    return OpenAI(base_url=f"http://127.0.0.1:{installed.port}/v1", api_key="none", timeout=120, max_retries=0)
