"""The environment of processes that compute on this machine."""

from twd.agent.probes.gpu import amd_cards
from twd.process.compute import engine_environment
from twd.settings.model import Settings


def environment_here(settings: Settings, backend: str) -> dict[str, str]:
    """What the settings and the cards of this machine ask for."""
    return engine_environment(settings, backend, amd_cards() if backend == "hip" else 0)
