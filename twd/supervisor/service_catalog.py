"""All services, and how to create each; its code is imported only when it is asked for."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.service import Service, ServiceContext
from twd.process.fork_server import ForkServerHandle
from twd.process.home import RESOLVED_VARIABLE, StateFolder
from twd.settings.model import BackendConfig, DrafterConfig, ModelConfig, Settings
from twd.settings.paths import path_of
from twd.supervisor.model_changes import is_path
from twd.supervisor.stage_options import StageChoice
from twd.wire.failures import TwdError


class ServiceChoice(NamedTuple):
    """Which service to create: a model by name, a drafter by its index in the settings; and options of agents and
    stages."""

    model: str = ""
    number: int = 0
    link_ms: float = 0.0
    stage: StageChoice = StageChoice()
    for_model: str = ""
    forks: ForkServerHandle | None = None


Factory = Callable[[ServiceContext, Settings, ServiceChoice], Service]


class ServiceRecipe(NamedTuple):
    """The function that creates a service, and the role in which the service signs in at the broker."""

    role: str
    make: Factory


def _edge(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.edge.service import EdgeService

    supervised = StateFolder(settings.home_dir).run if RESOLVED_VARIABLE in os.environ else None
    return EdgeService(context, settings, supervised)


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
    """Return a speculator over the pool, where the settings say so; else one that computes in this process alone."""
    if settings.pooled and settings.pool.engine == "rpc":
        from twd.speculator.targets.pool_rpc import rpc_speculator

        return rpc_speculator(context, settings, name, replica)
    if settings.pooled and settings.pool.engine == "ring":
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
    """Return the configuration of a drafter that is in no settings, from its file and options alone."""
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
    """Return the recipe for a backend: one that can verify drafts becomes a speculator's target; any other gets a
    relay."""
    from twd.supervisor.outside_engine import outside

    if outside(settings) and choice.model in settings.models:
        return ServiceRecipe("relay", _relay)
    if choice.model.endswith("@gate"):
        return ServiceRecipe("relay", _agent_relay)
    if choice.model not in settings.backends:
        known = ", ".join(settings.backends) or "none"
        message = f"there is no backend {choice.model!r} in the settings (there are: {known})"
        raise CommandError(ExitCode.NOT_FOUND, message)
    if settings.speculation.enabled and _checks_guesses(settings, choice.model):
        return ServiceRecipe("speculator", _remote_speculator)
    return ServiceRecipe("relay", _relay)


def _checks_guesses(settings: Settings, name: str) -> bool:
    """Return whether the server can verify drafts. One that is away gets a relay, since a relay can wait for it."""
    from twd.backends.factory import checks_guesses

    try:
        return checks_guesses(settings.backends[name], allow_private=settings.edge.allow_private_upstream)
    except TwdError as error:
        logging.getLogger("twd.relay").warning("%s does not say what it can: %s", name, error)
        return False


def _unknown_model(settings: Settings, name: str) -> CommandError:
    """Return the error for a model that is not in the settings, or for settings without any model."""
    if not name:
        return CommandError(ExitCode.USAGE, "the settings name no model; give a GGUF file with --model")
    known = ", ".join(settings.models) or "none"
    text = f"there is no model {name!r} in the settings (there are: {known}); give a name or a GGUF file"
    return CommandError(ExitCode.NOT_FOUND, text)


def _file(name: str) -> Path:
    """Return the path of a file named at the command line. A missing file is an error at once, not one of a process
    that keeps running."""
    path = path_of(name)
    if not path.is_file():
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {path}")
    return path


def _gate(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.gate.members import members_of
    from twd.gate.service import Gate

    if not members_of(settings):
        text = "nobody is there to write for a gate: name served models under gate.fleet, or servers under gate.agents"
        raise CommandError(ExitCode.USAGE, text)
    return Gate(context, settings)


def _agent_relay(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    """Create the relay of a server that only writes for the gate."""
    from twd.backends.factory import relay_of
    from twd.gate.members import agent_names

    server = agent_names(settings).get(choice.model)
    if server is None:
        known = ", ".join(agent_names(settings)) or "none"
        raise CommandError(ExitCode.NOT_FOUND, f"no server {choice.model!r} writes for the gate (there are: {known})")
    backend = BackendConfig(**{name: getattr(server, name) for name in server.__struct_fields__})
    backends = {**settings.backends, choice.model: backend}
    return relay_of(context, msgspec.structs.replace(settings, backends=backends), choice.model)


def _racer(context: ServiceContext, settings: Settings, choice: ServiceChoice) -> Service:
    from twd.racer.service import Racer

    return Racer(context)


SERVICES: Final[dict[str, Factory]] = {
    "edge": _edge,
    "metrics": _metrics,
    "speculator": _speculator,
    "stage": _stage,
    "drafter": _drafter,
    "relay": _relay,
    "gate": _gate,
    "racer": _racer,
    "agent": _agent,
    "coordinator": _coordinator,
    "swarm": _swarm,
}


def made_by(name: str, settings: Settings, choice: ServiceChoice) -> ServiceRecipe:
    """Return the recipe of the service with this name; for a relay, its server is asked what it can do."""
    if name not in SERVICES:
        known = ", ".join(SERVICES)
        raise CommandError(ExitCode.USAGE, f"there is no service {name!r}; there are: {known}")
    return _relaying(settings, choice) if name == "relay" else ServiceRecipe(name, SERVICES[name])
