"""A drafter with llama.cpp in this process, from the settings of one draft model."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twd.decoding.cost import CostCurve
from twd.decoding.window import Logits, Target
from twd.drafter.draft import DraftRules, Guess
from twd.drafter.runner import Judge
from twd.drafter.service import DrafterService, Load
from twd.drafter.told_experts import Chosen
from twd.engine.experts.choices import remembers_choices
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.engine.pass_threads import keep_all_threads
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
    """Returns a draft with its confidence, and the second choice where one is wanted."""
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
    """A loaded draft model as the service needs it."""

    native: NativeModel

    @property
    def vocab(self) -> VocabFingerprint:
        """The vocabulary of its tokens."""
        return self.native.facts.vocab

    @property
    def target(self) -> Target:
        """The model that computes its drafts."""
        return self.native.target

    @property
    def cost(self) -> CostCurve:
        """The cost curve of passes."""
        return self.native.cost

    @property
    def device(self) -> DeviceKind:
        """The kind of device on which it computes."""
        return self.native.device

    @property
    def size_bytes(self) -> int:
        """Bytes of its weights."""
        return self.native.facts.size_bytes

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards on which it computes."""
        return self.native.cards

    @property
    def chosen(self) -> Chosen | None:
        """Tells which experts a token chose, if it is a mixture."""
        choices = self.native.model.choices
        return None if choices is None else choices.chosen

    @property
    def judge(self) -> Judge:
        """The function that gives the confidence of a draft, and the second choice."""
        return judge

    def follow(self, event: SessionOpened) -> DraftRules:
        """Returns what makes the target's choices on this model's logits."""
        samplers, grammar = self.native.samplers, event.grammar
        sampler = samplers.sampler(
            event.sampling, event.seed, prompt_len=event.prompt_tokens, grammar=grammar, ignore_eos=event.ignore_eos
        )
        return DraftRules(sampler, None if grammar is None else samplers.ahead(grammar))

    def close(self) -> None:
        """Free the memory."""
        self.native.close()


def load_plan(name: ModelId, drafter: DrafterConfig, ctx_size: int, memory: Path) -> LoadPlan:
    """Returns the load plan of a draft model. It needs no exactness, because its drafts are verified."""
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
    """Returns the function that loads this draft model; the service runs it on a thread."""

    def load(progress: Progress) -> NativeDraftModel:
        plan = load_plan(name, drafter, ctx_size, memory)
        loaded = NativeDraftModel(load_native(replace(plan, remember=remembers_choices(plan.path)), progress))
        keep_all_threads(True)  # the service itself finds out how many are best, and tries more than planned, too
        return loaded

    return load


def native_drafter(ctx: ServiceContext, settings: Settings, number: int, ctx_size: int = 0) -> DrafterService:
    """Returns the drafter of one configured draft model; `number` counts `drafters` from 0. Without `ctx_size` it has
    the largest context of the settings' models."""
    drafter = settings.drafters[number]
    name = ModelId(drafter.name or Path(drafter.path).stem)
    sizes = [model.ctx_size for model in settings.models.values()]
    load = loader(name, drafter, ctx_size or max(sizes, default=0), StateFolder(settings.home_dir).cache)
    cores = OwnCores(EngineRole.DRAFTER, name, 0 if drafter.threads == "auto" else drafter.threads)
    return DrafterService(ctx, name, load, drafter.for_model, cores)
