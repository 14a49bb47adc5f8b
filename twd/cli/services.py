"""Which services there are, and how each is made; nothing is imported before it is asked for."""

from collections.abc import Callable
from typing import Final, NamedTuple

from twd.cli.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.service import Service, Surroundings
from twd.kit.settings import Settings


class Choice(NamedTuple):
    """Which of several: a model by name, a drafter by its place in the settings."""

    model: str = ""
    number: int = 0


Factory = Callable[[Surroundings, Settings, Choice], Service]


def _edge(ground: Surroundings, settings: Settings, choice: Choice) -> Service:
    from twd.edge.service import Edge

    return Edge(ground, settings)


def _metrics(ground: Surroundings, settings: Settings, choice: Choice) -> Service:
    from twd.metrics.service import Metrics

    return Metrics(ground, settings)


SERVICES: Final[dict[str, Factory]] = {"edge": _edge, "metrics": _metrics}


def factory_of(name: str) -> Factory:
    """What makes a service of this name."""
    if name not in SERVICES:
        known = ", ".join(SERVICES)
        raise CommandError(ExitCode.USAGE, f"there is no service {name!r}; there are: {known}")
    return SERVICES[name]
