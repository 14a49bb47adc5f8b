"""Clients of an installation."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.cli.running import Installed


@pytest.fixture
def client(demo: Installed) -> Iterator[OpenAI]:
    with client_of(demo) as client:
        yield client


def client_of(installed: Installed) -> OpenAI:
    """A client that hides no failure by asking again."""
    return OpenAI(base_url=f"http://127.0.0.1:{installed.port}/v1", api_key="none", timeout=120, max_retries=0)
