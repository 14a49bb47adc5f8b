"""The engine's test model, for what stands between jobs and the engine."""

from tests.model_fixtures import model_cache, q4, q4_path

__all__ = ["model_cache", "q4", "q4_path"]
