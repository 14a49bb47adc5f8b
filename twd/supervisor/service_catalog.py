"""Which services there are, and how each is made; nothing is imported before it is asked for."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.service import Service, ServiceContext
from twd.process.fork_server import ForkServerHandle
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.settings.paths import path_of
from twd.supervisor.model_changes import is_path
from twd.supervisor.stage_options import StageChoice
from twd.wire.failures import TwdError


class ServiceChoice(NamedTuple):
    """Which of several: a model by name, a drafter by its place in the settings; and what an agent begins with."""

    model: str = ""
    number: int = 0
    link_ms: float = 0.0
    stage: StageChoice = StageChoice()
    for_model: str = ""
    forks: ForkServerHandle | None = None


Factory = Callable[[ServiceContext, Settings, ServiceChoice], Service]


class ServiceRecipe(NamedTuple):
    """What makes a service, and the role in which it signs in at the broker."""

    role: str
    make: Factory


def _edge(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.edge.service import EdgeService

    return EdgeService(context, settings)


def _metrics(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.metrics.service import MetricsService

    return MetricsService(context, settings)


def _agent(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.agent.service import AgentService

    return AgentService(context, settings, choice.link_ms / 1000, choice.forks)


def _coordinator(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.coordinator.service import CoordinatorService

    return CoordinatorService(context, settings)


def _speculator(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    name = choice.model or settings.default_model
    if is_path(name) and name not in settings.models:
        path = _file(name)
        models = {**settings.models, path.stem: ModelConfig(path=str(path))}
        return _speculator_of(context, msgspec.structs.replace(settings, models=models), path.stem, choice.number + 1)
    if name not in settings.models:
        raise _unknown_model(settings, name)
    return _speculator_of(context, settings, name, choice.number + 1)


def _speculator_of(context: ServiceContext, settings: Settings, name: str, replica: int) -> Service:
    """Over the pool, where the settings say so; else in this process alone."""
    if settings.mode == "combined" and settings.pool.engine == "rpc":
        from twd.speculator.targets.pool_rpc import rpc_speculator

        return rpc_speculator(context, settings, name, replica)
    if settings.mode == "combined" and settings.pool.engine == "ring":
        from twd.speculator.targets.pool_ring import placed_ring

        return placed_ring(context, settings, name, replica)
    from twd.speculator.targets.native import native_speculator

    return native_speculator(context, settings, name)


def _drafter(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.drafter.native import native_drafter

    if choice.model:
        alone = (_drafter_alone(choice),)
        return native_drafter(context, msgspec.structs.replace(settings, drafters=alone), 0, choice.stage.ctx)
    if not 0 <= choice.number < len(settings.drafters):
        raise _no_drafter(len(settings.drafters), choice.number)
    drafter = settings.drafters[choice.number]
    if drafter.url:
        from twd.backends.factory import text_drafter_of

        return text_drafter_of(context, settings, drafter)
    return native_drafter(context, settings, choice.number)


def _no_drafter(there_are: int, number: int) -> CommandError:
    if not there_are:
        return CommandError(ExitCode.USAGE, "the settings name no drafter; give a GGUF file with --model")
    text = f"there is no drafter {number} in the settings, only 0 to {there_are - 1}; give one of these with --number"
    return CommandError(ExitCode.NOT_FOUND, text)


def _drafter_alone(choice: ServiceChoice) -> DrafterConfig:
    """A drafter that is in no settings: its file and options are all there is."""
    told = choice.stage
    if told.gpu_layers not in ("", "auto") and not told.gpu_layers.isdecimal():
        raise CommandError(ExitCode.USAGE, f"--gpu-layers {told.gpu_layers!r} is neither a number nor auto")
    return DrafterConfig(
        name=told.name,
        path=str(_file(choice.model)),
        for_model=choice.for_model,
        threads=told.threads or "auto",
        gpu_layers="auto" if told.gpu_layers in ("", "auto") else int(told.gpu_layers),
    )


def _swarm(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.swarm.service import Swarm

    return Swarm(context, settings)


def _stage(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.supervisor.stage_options import stage_of

    return stage_of(context, settings, choice.model or settings.default_model, choice.stage)


def _relay(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.backends.factory import relay_of
    from twd.supervisor.outside_engine import outside, with_backend

    if outside(settings) and choice.model in settings.models:
        settings = with_backend(settings, choice.model)
    return relay_of(context, settings, choice.model)


def _remote_speculator(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.supervisor.remote_target import remote_speculator

    return remote_speculator(context, settings, choice.model)


def _relaying(settings: Settings, choice: ServiceChoice) -> ServiceRecipe:
    """A backend that checks guesses becomes a speculator's target, any other is passed through."""
    from twd.supervisor.outside_engine import outside

    if outside(settings) and choice.model in settings.models:
        return ServiceRecipe("relay", _relay)
    if choice.model not in settings.backends:
        known = ", ".join(settings.backends) or "none"
        message = f"there is no backend {choice.model!r} in the settings (there are: {known})"
        raise CommandError(ExitCode.NOT_FOUND, message)
    if settings.speculation.enabled and _checks_guesses(settings, choice.model):
        return ServiceRecipe("speculator", _remote_speculator)
    return ServiceRecipe("relay", _relay)


def _checks_guesses(settings: Settings, name: str) -> bool:
    """Ask the server what it can; one that is away is passed through, for a relay knows how to wait."""
    from twd.backends.factory import checks_guesses

    try:
        return checks_guesses(settings.backends[name], allow_private=settings.edge.allow_private_upstream)
    except TwdError as error:
        logging.getLogger("twd.relay").warning("%s does not say what it can: %s", name, error)
        return False


def _unknown_model(settings: Settings, name: str) -> CommandError:
    """No such model, or none was named where the settings have none to go by."""
    if not name:
        return CommandError(ExitCode.USAGE, "the settings name no model; give a GGUF file with --model")
    known = ", ".join(settings.models) or "none"
    text = f"there is no model {name!r} in the settings (there are: {known}); give a name or a GGUF file"
    return CommandError(ExitCode.NOT_FOUND, text)


def _file(name: str) -> Path:
    """A file that was named at the command line; one that is not there is told at once, not by a process that stays."""
    path = path_of(name)
    if not path.is_file():
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {path}")
    return path


SERVICES: Final[dict[str, Factory]] = {
    "edge": _edge,
    "metrics": _metrics,
    "speculator": _speculator,
    "stage": _stage,
    "drafter": _drafter,
    "relay": _relay,
    "agent": _agent,
    "coordinator": _coordinator,
    "swarm": _swarm,
}


def made_by(name: str, settings: Settings, choice: ServiceChoice) -> ServiceRecipe:
    """What makes a service of this name; what a relay is depends on its server, which is asked."""
    if name not in SERVICES:
        known = ", ".join(SERVICES)
        raise CommandError(ExitCode.USAGE, f"there is no service {name!r}; there are: {known}")
    return _relaying(settings, choice) if name == "relay" else ServiceRecipe(name, SERVICES[name])
