"""Which models to serve: what a name means, how a change alters the settings, whether two models fit. No I/O here."""

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from twd.engine.host_memory.limits import gib
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import ModelFile

SPARE_SHARE = 0.05
"""Share of the free memory that stays free when a second model is loaded beside the first."""


@dataclass(frozen=True, slots=True)
class ServedModels:
    """The models of an installation: all in its settings, and those that it serves."""

    settings: Settings
    wanted: tuple[str, ...]
    default: str

    def known(self, name: str) -> bool:
        """Whether a model is served, or is loading."""
        return name in self.wanted

    def beside(self, after: "ServedModels", newcomer: str) -> "ServedModels":
        """Return the state while the new model loads and everything else is as before."""
        return _settled(after.settings, (*self.wanted, newcomer), self.default)

    def with_model(self, name: str, default: str = "") -> "ServedModels":
        """Return this with one more model, which becomes the default if there was none or if `default` names it."""
        wanted = (*self.wanted, name) if name not in self.wanted else self.wanted
        return _settled(self.settings, wanted, default or self.default or name)

    def without(self, names: Iterable[str], default: str = "") -> "ServedModels":
        """Return this without some models; the default becomes `default` if given, else stays, else is the first model
        left."""
        gone = set(names)
        wanted = tuple(name for name in self.wanted if name not in gone)
        kept = default or (self.default if self.default in wanted else next(iter(wanted), ""))
        return _settled(self.settings, wanted, kept)


def _settled(settings: Settings, wanted: tuple[str, ...], default: str) -> ServedModels:
    said = with_default(settings, default) if default else settings
    return ServedModels(with_served(said, wanted), wanted, default)


def serving(settings: Settings, wanted: Iterable[str]) -> ServedModels:
    """Return what an installation serves when it starts."""
    names = tuple(name for name in settings.served() if name in set(wanted))
    default = settings.default_model if settings.default_model in names else next(iter(names), "")
    return ServedModels(settings, names, default)


def with_served(settings: Settings, wanted: Iterable[str]) -> Settings:
    """Return settings in which exactly these of its own models are served; the coordinator plans by them."""
    names = set(wanted)
    models = {key: msgspec.structs.replace(entry, serve=key in names) for key, entry in settings.models.items()}
    return msgspec.structs.replace(settings, models=models)


def skipping_version_check(settings: Settings) -> Settings:
    """Return settings that also allow machines of the pool whose engine has another version."""
    return msgspec.structs.replace(settings, pool=msgspec.structs.replace(settings.pool, skip_version_check=True))


def with_head(settings: Settings, head: str, model: str = "") -> Settings:
    """Return settings in which this trained head guesses for a model, or for every one, instead of another head."""
    others = (one for one in settings.drafters if not one.head or (model and one.for_model != model))
    return msgspec.structs.replace(settings, drafters=(DrafterConfig(head=head, for_model=model), *others))


def with_default(settings: Settings, name: str) -> Settings:
    """Return settings with this model as the default."""
    models = {key: msgspec.structs.replace(entry, default=key == name) for key, entry in settings.models.items()}
    backends = {key: msgspec.structs.replace(entry, default=key == name) for key, entry in settings.backends.items()}
    return msgspec.structs.replace(settings, models=models, backends=backends)


def find_model(settings: Settings, files: Sequence[ModelFile], name: str) -> tuple[Settings, str]:
    """Return the settings and model name that a name means: a configured model, a GGUF file, or a file that the agent
    found. Raises MODEL_NOT_FOUND."""
    if name in settings.served():
        return settings, name
    path = name if is_path(name) else _listed(files, name)
    if not path:
        raise TwdError(FailureCode.MODEL_NOT_FOUND, _unknown(settings, files, name), "model")
    return with_file(settings, path)


def served_name(serving: ServedModels, files: Sequence[ModelFile], name: str) -> str:
    """Return the served model that a name means, resolved like in `find_model`; empty where it is not served."""
    if name in serving.wanted:
        return name
    try:
        _, found = find_model(serving.settings, files, name)
    except TwdError:
        return ""
    return found if found in serving.wanted else ""


def is_path(name: str) -> bool:
    """Whether a name is a file's path."""
    return name.endswith(".gguf") or "/" in name or "\\" in name


def _listed(files: Sequence[ModelFile], name: str) -> str:
    same = [file for file in files if file.name == name] or [
        file for file in files if file.name.casefold() == name.casefold()
    ]
    if len(same) > 1 and len({file.path for file in same}) > 1:
        paths = ", ".join(file.path for file in same)
        raise TwdError(FailureCode.BAD_REQUEST, f"{name!r} is the name of several files: {paths}. Give a path", "model")
    if same and same[0].problem:
        raise TwdError(FailureCode.MODEL_LOAD, same[0].problem, "model")
    return same[0].path if same else ""


def _unknown(settings: Settings, files: Sequence[ModelFile], name: str) -> str:
    named = ", ".join(settings.served()) or "none"
    found = ", ".join(file.name for file in files[:20] if not file.problem) or "none"
    return (
        f"there is no model {name[:200]!r}: configured are {named}; files found on this machine: {found}. "
        "Give one of these names, or the path of a GGUF file"
    )


def with_file(settings: Settings, path: str) -> tuple[Settings, str]:
    """Return settings with a model for this file, and the model's name; a file that is already there keeps its name."""
    for name, model in settings.models.items():
        if model.path == path:
            return settings, name
    stem = re.sub(r"-00001-of-\d{5}$", "", re.split(r"[/\\]", path)[-1].removesuffix(".gguf")) or "model"
    name, number = stem, 1
    while name in settings.served():
        number += 1
        name = f"{stem}-{number}"
    models = {**settings.models, name: ModelConfig(path=path)}
    return msgspec.structs.replace(settings, models=models), name


class ReplacementOrder(enum.StrEnum):
    """In which order one model replaces another."""

    BESIDE = "beside"
    """The new model loads while the old one still serves: no job waits."""
    AFTER = "after"
    """The old model ends before the new one loads: memory does not suffice for both."""


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """Memory in bytes: what the new model needs, what is free, and what the old model gives back."""

    needed: int
    free: int
    freed: int = 0
    certain: bool = True
    """Whether these figures are complete; where other devices hold memory, too, they are not."""


def manner_of(room: MemoryRoom) -> ReplacementOrder:
    """Return BESIDE where both models fit, else AFTER. Raises OUT_OF_MEMORY where the new one would not fit even
    alone."""
    if room.needed <= room.free * (1 - SPARE_SHARE):
        return ReplacementOrder.BESIDE
    missing = room.needed - room.free - room.freed
    if missing > 0 and room.certain:
        text = (
            f"it needs {gib(room.needed)} with full contexts, and {gib(room.free + room.freed)} can be had: "
            f"{gib(missing)} too little"
        )
        raise TwdError(FailureCode.OUT_OF_MEMORY, text, "model")
    return ReplacementOrder.AFTER
