"""What the settings want of the pool: its models with their sizes, and the draft models that machines run."""

from dataclasses import replace

from twd.coordinator.core.drafters import WantedDrafter, process_name
from twd.coordinator.core.placement.values import ModelShape
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.header_copies import HeaderCopy
from twd.coordinator.model_shape import read_shape
from twd.gguf_tools.model_file import read_model
from twd.kit.ids import node_id
from twd.process.home import StateFolder
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.settings.paths import path_of
from twd.wire.failures import TwdError
from twd.wire.node import ModelFile
from twd.wire.placement import place_of


def wanted_models(settings: Settings) -> tuple[WantedModel, ...]:
    """Return the models that must run over the pool; blocks while it reads their headers."""
    if not settings.pooled:
        return ()
    served = (name for name, model in settings.models.items() if model.serve)
    return tuple(replica for name in served for replica in wanted_replicas(settings, name))


def wanted_replicas(settings: Settings, name: str, copy: HeaderCopy | None = None) -> tuple[WantedModel, ...]:
    """Return all replicas of one model; blocks while it reads the file's header, or a copy of it."""
    wanted = wanted_model(settings, name, copy)
    return tuple(
        replace(wanted, name=place_of(name, number), model=name, replica=number)
        for number in range(1, settings.models[name].replicas + 1)
    )


def wanted_model(settings: Settings, name: str, copy: HeaderCopy | None = None) -> WantedModel:
    """Return one model with its sizes, or with the reason why they cannot be read."""
    model = settings.models[name]
    try:
        home, header = StateFolder(settings.home_dir).path, copy.path if copy is not None else None
        shape = read_shape(name, model, settings.pool.engine, header, home)
        return wanted_of(name, model, shape, copy.file if copy is not None else None)
    except (TwdError, OSError) as error:
        seen = read_model(path_of(model.path))
        listed_as = seen.name if seen.problem else ""  # else another copy would fail, too
        return WantedModel(name, model.ctx_size, model.parallel, problem=str(error), listed_as=listed_as)


def wanted_of(name: str, model: ModelConfig, shape: ModelShape, file: ModelFile | None = None) -> WantedModel:
    """Return a model as its settings describe it; blocks while it reads a part of its file. `file`: what other machines
    tell of it, where it is not here."""
    return WantedModel(
        name,
        model.ctx_size or shape.ctx_size,
        model.parallel,
        shape,
        file=file or read_model(path_of(model.path)),
        type_k="" if model.cache_type_k == "auto" else model.cache_type_k,
        type_v="" if model.cache_type_v == "auto" else model.cache_type_v,
        exact=bool(model.exact),
        flash_attention=model.flash_attn != "off",
        mmap=model.mmap != "off",
        on_cpus=model.backend == "cpu" or model.gpu_layers == 0,
    )


def wanted_drafters(settings: Settings) -> tuple[WantedDrafter, ...]:
    """Return the draft models that machines of the pool run; blocks while it reads their headers."""
    if not settings.pooled:
        return ()
    resting = {name for name, model in settings.models.items() if not model.serve}
    listed = enumerate(settings.drafters)
    return tuple(_wanted_drafter(settings, n, one) for n, one in listed if one.path and one.for_model not in resting)


def _wanted_drafter(settings: Settings, number: int, drafter: DrafterConfig) -> WantedDrafter:
    path = path_of(drafter.path)
    file, name = read_model(path), drafter.name or path.stem
    return WantedDrafter(
        process=process_name(name, file, number),
        file=file,
        node=node_id(drafter.node) if drafter.node else "",
        name=name,
        for_model=drafter.for_model,
        ctx_size=max((model.ctx_size for model in settings.models.values()), default=0),
        threads=0 if drafter.threads == "auto" else drafter.threads,
        gpu_layers="" if drafter.gpu_layers == "auto" else str(drafter.gpu_layers),
    )
