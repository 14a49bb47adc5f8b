"""From the settings: which models write for a gate, and which models judge."""

from typing import Final

from twd.settings.model import ServerConfig, Settings

BEHIND: Final = "@gate"
"""Ends the names of servers that only write for the gate."""


def agent_names(settings: Settings) -> dict[str, ServerConfig]:
    """The servers under `gate.agents`, by the names that they have here."""
    names: dict[str, ServerConfig] = {}
    for number, server in enumerate(settings.gate.agents, 1):
        name = server.model_name or f"agent-{number}"
        names[f"{name}{BEHIND}" if f"{name}{BEHIND}" not in names else f"{name}-{number}{BEHIND}"] = server
    return names


def members_of(settings: Settings) -> list[str]:
    """The names of all models that write for the gate."""
    return [*settings.gate.fleet, *agent_names(settings)]


def targets_of(settings: Settings) -> list[str]:
    """The names of the models that judge: all that are served and do not write for the gate, and always
    `gate.verifier`.
    """
    fleet = set(settings.gate.fleet)
    return [name for name in settings.served() if name not in fleet or name == settings.gate.verifier]
