"""A drafter over llama.cpp in this process, from the settings of one draft model."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twd.decoding.cost import CostCurve
from twd.decoding.window import Logits, Target
from twd.drafter.draft import DraftRules, Guess
from twd.drafter.runner import Judge
from twd.drafter.service import DrafterService, Load
from twd.engine.loading import LoadPlan, NativeModel, load_native
from twd.kit.progress import Progress
from twd.kit.service import ServiceContext
from twd.process.compute import wanted_layers
from twd.process.core_plan import EngineRole
from twd.process.core_registry import OwnCores
from twd.process.home import StateFolder
from twd.settings.model import DrafterConfig, Settings
from twd.settings.paths import path_of
from twd.wire.base import ModelId
from twd.wire.draft import DeviceKind, SessionOpened
from twd.wire.model import VocabFingerprint

_SESSIONS = 4


def judge(logits: Logits, token: int, with_other: bool) -> Guess:
    """How likely the draft model held its own guess, and its second choice where one is wanted."""
    highest = float(logits.max())
    total = float(np.exp(logits - np.float32(highest)).sum())

    def share(one: int) -> float:
        return math.exp(float(logits[one]) - highest) / total

    if not with_other:
        return Guess(token, share(token))
    others = logits.copy()
    others[token] = -np.inf
    other = int(others.argmax())
    return Guess(token, share(token), other, share(other))


@dataclass(slots=True)
class NativeDraftModel:
    """A loaded draft model as the service wants it."""

    native: NativeModel

    @property
    def vocab(self) -> VocabFingerprint:
        """Which tokens it speaks."""
        return self.native.facts.vocab

    @property
    def target(self) -> Target:
        """Makes its guesses."""
        return self.native.target

    @property
    def cost(self) -> CostCurve:
        """Time of a pass by its rows."""
        return self.native.cost

    @property
    def device(self) -> DeviceKind:
        """On what it computes."""
        return self.native.device

    @property
    def judge(self) -> Judge:
        """How sure it is of a guess, and what it would have said instead."""
        return judge

    def follow(self, event: SessionOpened) -> DraftRules:
        """The same choice as the target's, on this model's logits."""
        samplers, grammar = self.native.samplers, event.grammar
        sampler = samplers.sampler(
            event.sampling, event.seed, prompt_len=event.prompt_tokens, grammar=grammar, ignore_eos=event.ignore_eos
        )
        return DraftRules(sampler, None if grammar is None else samplers.ahead(grammar))

    def close(self) -> None:
        """Give the memory back."""
        self.native.close()


def load_plan(name: ModelId, drafter: DrafterConfig, ctx_size: int, memory: Path) -> LoadPlan:
    """A draft model needs no exactness: its guesses are checked."""
    return LoadPlan(
        model=name,
        path=path_of(drafter.path),
        ctx_size=ctx_size,
        parallel=_SESSIONS,
        exact=False,
        gpu_layers=wanted_layers(drafter.gpu_layers),
        threads=0 if drafter.threads == "auto" else drafter.threads,
        test=False,
        timed=True,
        memory=memory,
    )


def loader(name: ModelId, drafter: DrafterConfig, ctx_size: int, memory: Path) -> Load:
    """What loads this draft model, on a thread of the service's choice."""

    def load(progress: Progress) -> NativeDraftModel:
        return NativeDraftModel(load_native(load_plan(name, drafter, ctx_size, memory), progress))

    return load


def native_drafter(ctx: ServiceContext, settings: Settings, number: int, ctx_size: int = 0) -> DrafterService:
    """The drafter of one configured draft model; `number` counts `drafters` from 0. Without `ctx_size` it has the
    largest context of the settings' models."""
    drafter = settings.drafters[number]
    name = ModelId(drafter.name or Path(drafter.path).stem)
    sizes = [model.ctx_size for model in settings.models.values()]
    load = loader(name, drafter, ctx_size or max(sizes, default=0), StateFolder(settings.home_dir).cache)
    cores = OwnCores(EngineRole.DRAFTER, name, 0 if drafter.threads == "auto" else drafter.threads)
    return DrafterService(ctx, name, load, drafter.for_model, cores)
