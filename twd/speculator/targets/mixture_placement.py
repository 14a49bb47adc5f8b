"""Where the layers and experts of a served mixture go on this machine, as `moe_placement` asks."""

import logging
from pathlib import Path
from typing import Final

from twd.engine.experts.choose import cache_bytes
from twd.engine.host_memory.limits import gib
from twd.engine.library import devices
from twd.engine.tensor_places import DevicePlacement
from twd.moe.devices import find_devices
from twd.moe.model import is_mixture, read_mixture
from twd.moe.on_devices import device_placement
from twd.moe.placement import MixturePlan, Strategy, place
from twd.moe.profile import ExpertProfile
from twd.moe.profile_files import profile_for, profile_path
from twd.moe.summary import summarize
from twd.process.home import StateFolder
from twd.settings.model import ModelConfig
from twd.settings.paths import path_of
from twd.wire.failures import FailureCode, TwdError

_log: Final = logging.getLogger("twd.speculator")


def place_mixture(model: ModelConfig, home: StateFolder) -> DevicePlacement | None:
    """Returns the placement of a mixture on the cards and in the memory of this machine.

    None if all of it goes where layers go: it is no mixture, there is no card, or nothing was asked for. Raises
    TwdError if a part of it would not fit anywhere.
    """
    path, cards = path_of(model.path), [device for device in devices() if device.is_gpu]
    if model.moe_placement == "off" or not cards or not is_mixture(path):
        return None
    facts = summarize(read_mixture(path))
    profile = _profile(model, path, home) if model.moe_placement == "profile-guided" else None
    strategy: Strategy = "balanced" if profile is None else "profile-guided"
    found = find_devices(home.cache, path)
    caches = cache_bytes(path, tokens=model.ctx_size, sessions=model.parallel, types=model.cache_types)
    plan = place(facts, found, strategy, profile, caches)
    lacking = plan.missing or plan.disk_bytes
    if lacking:
        free = ", ".join(f"{device.name} {gib(device.memory)}" for device in found)
        text = f"{gib(lacking)} of {path.name} fit neither on a card nor in memory (free: {free})"
        raise TwdError(FailureCode.OUT_OF_MEMORY, f"{text}; set gpu_layers to 0 to read experts from disk")
    _log.info("experts: %s", _told(plan))
    return device_placement(plan, cards)


def advised(error: TwdError, model: ModelConfig) -> TwdError:
    """Returns what to raise where loading failed: a card that is too small for a mixture is no reason to give up."""
    on_cards = model.moe_placement == "off" and any(device.is_gpu for device in devices())
    if error.code is not FailureCode.OUT_OF_MEMORY or not on_cards or not is_mixture(path_of(model.path)):
        return error
    told = f"{error}; with moe_placement: balanced, experts that have no room on the card stay in memory"
    return TwdError(error.code, told, error.failure.field)


def _profile(model: ModelConfig, path: Path, home: StateFolder) -> ExpertProfile | None:
    """Returns the profile that the settings name, or the one that is kept; None if there is none yet."""
    source = profile_path(model.moe_hot_profile, home.path, path)
    if source is None:
        _log.warning("no profile of %s is kept; its experts are placed without (`twd moe profile` counts)", path.name)
        return None
    return profile_for(source, path)


def _told(plan: MixturePlan) -> str:
    layers = ((share.device.name, len(share.expert_layers)) for share in plan.shares if share.expert_layers)
    return ", ".join(f"{count} layers on {name}" for name, count in layers)
