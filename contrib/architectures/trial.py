"""Tries one architecture: a tiny random model is loaded, tested, and drafted for."""

import tempfile
from dataclasses import asdict
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
                drafted=all(_text(model, sampling, drafts=True) == _text(model, sampling) for sampling in _SAMPLINGS),
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


def _text(model: NativeModel, sampling: Sampling, *, drafts: bool = False) -> list[int]:
    """A text of the model; with drafts at random."""
    target, dice = model.target, np.random.default_rng(4)
    prompt = [int(token) for token in np.random.default_rng(2).integers(1, VOCABULARY - 1, 20)]
    sampler = model.samplers.sampler(sampling, sampling.seed or 0, prompt_len=len(prompt))
    slot, cached = target.open(prompt, sampler)
    tokens, at = list(prompt), cached
    while len(tokens) < len(prompt) + _COUNT:
        feed = tokens[at:]
        guesses = (
            [int(token) for token in dice.integers(1, VOCABULARY - 1, 3)] if drafts and target.can_rollback else []
        )
        target.submit([Window(slot, 0, at, (*feed, *guesses), committed=len(feed))])
        (verdict,) = target.collect()
        if verdict.failure is not None:
            return []
        tokens += verdict.tokens
        at = len(tokens) - 1
    target.close(slot)
    return tokens[: len(prompt) + _COUNT]
