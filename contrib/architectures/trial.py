"""Tries one architecture: a tiny random model is loaded, tested, and drafted for."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.engine.slices.recipes import VOCABULARY, recipe
from twd.decoding.window import Window
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.engine.model import ONE_SESSION
from twd.gguf_tools.abilities import TrialResult, Undoing
from twd.wire.base import ModelId
from twd.wire.job import Sampling

_COUNT = 40
_SAMPLINGS = (Sampling(), Sampling(temperature=0.9, seed=5))


def try_one(name: str) -> TrialResult:
    """Load the tiny model of a recipe and find out what it can do; raises TwdError if it cannot be loaded."""
    one = recipe(name)
    with tempfile.TemporaryDirectory() as folder:
        path = one.write(Path(folder) / "model.gguf")
        plan = LoadPlan(ModelId("m"), path, ctx_size=512, parallel=2, threads=1)
        model = load_native(plan, lambda share, stage: None)
        try:
            return TrialResult(
                exact=model.exactness.exact,
                undoing=_undoing(model),
                drafted=_drafted(model),
                one_session=one.architecture in ONE_SESSION,
            )
        finally:
            model.close()


def as_json(found: TrialResult) -> dict[str, object]:
    """What was found, as JSON takes it."""
    return asdict(found)


def _undoing(model: NativeModel) -> Undoing:
    if not model.facts.can_rollback:
        return Undoing.NOTHING
    if model.undo.snapshots:
        return Undoing.SNAPSHOTS
    return Undoing.CHECKPOINTS if model.undo.state_bytes else Undoing.CELLS


def _drafted(model: NativeModel) -> bool:
    """Whether texts with drafts are those without, alone and where two sessions share passes."""
    for sampling in _SAMPLINGS:
        plain = [_texts(model, sampling, [which])[0] for which in (0, 1)]
        if [_texts(model, sampling, [which], drafts=True)[0] for which in (0, 1)] != plain:
            return False
        if model.target.n_slots > 1 and _texts(model, sampling, [0, 1], drafts=True) != plain:
            return False
    return True


@dataclass
class _Session:
    """One text, and how much of it is computed."""

    slot: int
    tokens: list[int]
    at: int


def _texts(model: NativeModel, sampling: Sampling, prompts: list[int], *, drafts: bool = False) -> list[list[int]]:
    """What the model writes after some prompts, in passes that all share; with drafts at random."""
    sessions = [_begun(model, sampling, which) for which in prompts]
    dice = np.random.default_rng(4)
    ends = [len(one.tokens) + _COUNT for one in sessions]
    while any(len(one.tokens) < end for one, end in zip(sessions, ends, strict=True)):
        model.target.submit([_window(one, dice, drafts and model.target.can_rollback) for one in sessions])
        for verdict in model.target.collect():
            if verdict.failure is not None:
                return [[] for _ in prompts]
            one = next(one for one in sessions if one.slot == verdict.slot)
            one.tokens += verdict.tokens
            one.at = len(one.tokens) - 1
    for one in sessions:
        model.target.close(one.slot)
    return [one.tokens[:end] for one, end in zip(sessions, ends, strict=True)]


def _begun(model: NativeModel, sampling: Sampling, which: int) -> _Session:
    prompt = [int(token) for token in np.random.default_rng(2 + which).integers(1, VOCABULARY - 1, 20)]
    sampler = model.samplers.sampler(sampling, sampling.seed or 0, prompt_len=len(prompt))
    slot, cached = model.target.open(prompt, sampler)
    return _Session(slot, prompt, cached)


def _window(one: _Session, dice: np.random.Generator, drafts: bool) -> Window:
    feed = one.tokens[one.at :]
    guesses = [int(token) for token in dice.integers(1, VOCABULARY - 1, int(dice.integers(1, 5)))] if drafts else []
    return Window(one.slot, 0, one.at, (*feed, *guesses), committed=len(feed))
