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


def _speculator(ground: Surroundings, settings: Settings, choice: Choice) -> Service:
    from twd.speculator.native import native_speculator

    model = choice.model or settings.default_model
    if model not in settings.models:
        known = ", ".join(settings.models) or "none"
        raise CommandError(ExitCode.CONFIG, f"no model {model!r} under models in the settings; there are: {known}")
    return native_speculator(ground, settings, model)


def _drafter(ground: Surroundings, settings: Settings, choice: Choice) -> Service:
    from twd.drafter.native import native_drafter

    if not 0 <= choice.number < len(settings.drafters) or not settings.drafters[choice.number].path:
        raise CommandError(ExitCode.CONFIG, f"the settings have no drafter number {choice.number} with a path")
    return native_drafter(ground, settings, choice.number)


SERVICES: Final[dict[str, Factory]] = {
    "edge": _edge,
    "metrics": _metrics,
    "speculator": _speculator,
    "drafter": _drafter,
}


def factory_of(name: str) -> Factory:
    """What makes a service of this name."""
    if name not in SERVICES:
        known = ", ".join(SERVICES)
        raise CommandError(ExitCode.USAGE, f"there is no service {name!r}; there are: {known}")
    return SERVICES[name]
