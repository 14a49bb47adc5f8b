"""The small real model, as the engine's tests keep it."""

from tests.model_fixtures import model_cache, q4_path

__all__ = ["model_cache", "q4_path"]
