"""The environment of processes that compute on this machine."""

from twd.agent.probes.gpu import amd_cards
from twd.process.compute import engine_environment
from twd.settings.model import Settings


def environment_here(settings: Settings, backend: str) -> dict[str, str]:
    """Return the environment variables that the settings and the GPUs of this machine need."""
    return engine_environment(settings, backend, amd_cards() if backend == "hip" else 0)
