"""Mixtures that several tests read."""

from pathlib import Path

import pytest

from tests.moe.mixtures import upcycle


@pytest.fixture(scope="session")
def upcycled(q4_path: Path, model_cache: Path) -> Path:
    """The demo model with each feed-forward network eight times over, single experts; written once."""
    path = model_cache / "SmolLM2-135M-8-single-experts-Q4_0.gguf"
    if not path.exists():
        upcycle(q4_path, path.with_suffix(".partial"), indexed=True).replace(path)
    return path
