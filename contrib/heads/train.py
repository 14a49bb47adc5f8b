"""Trains a head from stored texts, for so many minutes of computing. What it has is written again and again.

    HEADS_PYTHON contrib/heads/train.py FOLDER --out head.npz --minutes 30

A run that was ended goes on where it was last written.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from contrib.heads import net
from contrib.heads.begin import first_weights
from contrib.heads.rows import Batch, Texts, batch, packed, read_texts
from contrib.heads.target import read_target
from contrib.heads.vocabulary import coverage, draft_vocabulary, places

Shares = npt.NDArray[np.float32]
Told = tuple[float, Shares]
_FIXED: Final = "output"
_WARM, _LEAST = 40, 0.03
_TELL, _KEEP = 25, 100
_LOOKED_AT: Final = 20_000
_READ: Final = ("tokens", "inputs")


class Training:
    """The weights of a head while they change."""

    def __init__(self, weights: net.Weights, shape: net.Shape, steps: int, fade: float) -> None:
        self.fixed = {_FIXED: jnp.asarray(weights[_FIXED])}
        """The output matrix stays that of the target: so it cannot be learned by heart from few texts."""
        self.weights = {name: jnp.asarray(values) for name, values in weights.items() if name != _FIXED}
        self.first, self.second = ({name: jnp.zeros_like(one) for name, one in self.weights.items()} for _ in range(2))
        self.number, self.spent_s = 0, 0.0
        judge = partial(_judged, shape=shape, steps=steps, fade=fade)
        self._judge = jax.jit(judge)
        self._step = jax.jit(partial(_stepped, judge), donate_argnums=(0, 1))

    def learn(self, rows: Batch, rate: float) -> Told:
        """One step; returns the loss and the share of right guesses in each step of a run."""
        began = time.process_time()
        self.number += 1
        asked = (jnp.float32(rate * min(1.0, self.number / _WARM)), jnp.float32(self.number))
        told = self._step(self.weights, (self.first, self.second), self.fixed, rows, *asked)
        self.weights, (self.first, self.second), lost, right = told
        found = float(lost), np.asarray(right)
        self.spent_s += time.process_time() - began
        return found

    def tried(self, rows: Batch) -> Told:
        """The same without a change."""
        lost, right = self._judge(self.weights, self.fixed, rows)
        return float(lost), np.asarray(right)

    def save(self, path: Path, **more: Any) -> None:
        """Write all weights, and beside them what is needed to go on; the files are whole at any time."""
        _save(path, {**more, **self.weights, **self.fixed})
        moments = {f"first.{name}": one for name, one in self.first.items()}
        moments |= {f"second.{name}": one for name, one in self.second.items()}
        _save(_state_of(path), {**moments, "number": self.number, "spent_s": self.spent_s})

    def go_on(self, path: Path) -> None:
        """Take up what was saved."""
        with np.load(path) as kept, np.load(_state_of(path)) as state:
            self.weights = {name: jnp.asarray(kept[name]) for name in self.weights}
            self.first = {name: jnp.asarray(state[f"first.{name}"]) for name in self.weights}
            self.second = {name: jnp.asarray(state[f"second.{name}"]) for name in self.weights}
            self.number, self.spent_s = int(state["number"]), float(state["spent_s"])


def _state_of(path: Path) -> Path:
    return path.with_suffix(".state.npz")


def _save(path: Path, arrays: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as out:
        np.savez(out, **{name: np.asarray(one) for name, one in arrays.items()})  # type: ignore[arg-type]
    part.rename(path)


def _judged(weights: net.Weights, fixed: net.Weights, rows: Any, shape: net.Shape, steps: int, fade: float) -> Any:
    return net.loss({**weights, **fixed}, rows, shape, steps, fade)


def _stepped(
    judge: Any, weights: net.Weights, moments: Any, fixed: net.Weights, rows: Any, rate: Any, number: Any
) -> Any:
    (lost, right), slopes = jax.value_and_grad(judge, has_aux=True)(weights, fixed, rows)
    weights, moments = net.adam(weights, slopes, moments, rate, number)
    return weights, moments, lost, right


class Lessons:
    """Batches of stored texts."""

    def __init__(self, texts: Texts, embedding: npt.NDArray[np.float32], small: npt.NDArray[np.int32]) -> None:
        self._texts, self._embedding, self._small = texts, embedding, small

    def without_end(
        self, chosen: Sequence[int], room: int, rows: int, seed: int, noise: float = 0.0
    ) -> Iterator[Batch]:
        """Of the chosen texts, each time mixed anew. With noise on what it reads, a head cannot know texts by it."""
        dice = np.random.default_rng(seed)
        lengths = [int(self._texts.spans[number][1] - self._texts.spans[number][0]) - 1 for number in chosen]
        while True:
            groups = [[chosen[one] for one in group] for group in packed(lengths, room, dice)]
            for start in range(0, len(groups) - rows + 1, rows):
                found = batch(self._texts, groups[start : start + rows], room, self._embedding, self._small)
                yield {name: _noisy(one, noise, dice) if name in _READ else one for name, one in found.items()}


def _noisy(values: Any, noise: float, dice: np.random.Generator) -> Any:
    return values * (1 + noise * dice.standard_normal(values.shape, np.float32)) if noise else values


def main(args: argparse.Namespace) -> None:
    """Read, train, write."""
    facts, target = read_target(args.folder / "target.npz")
    texts = read_texts(args.folder)
    whole, width = target["embedding"].shape
    vocabulary = _vocabulary(args, texts, whole, facts["ends"])
    print(f"{len(texts.tokens)} tokens, {coverage(texts.likeliest, vocabulary):.1%} may be guessed", flush=True)
    shape = net.Shape(facts["heads"], target["attn_q"].shape[0] // facts["heads"], facts["base"], facts["epsilon"])
    begun = first_weights(target, texts.rows[_sample(texts), :-width], facts["heads"], vocabulary)
    training = Training(begun, shape, args.steps, args.fade)
    if args.out.exists():
        training.go_on(args.out)
    lessons = Lessons(texts, target["embedding"], places(vocabulary, whole))
    held = list(range(0, len(texts.ends), args.hold_out))
    rest = sorted(set(range(len(texts.ends))) - set(held))
    save = partial(training.save, args.out, vocabulary=vocabulary)
    _train(training, lessons.without_end(rest, args.room, args.rows, training.number, args.noise), args, save)
    save()
    judged = lessons.without_end(held, args.room, 1, 0)
    _tell("texts it has not seen", [training.tried(next(judged)) for _ in range(max(1, len(held) // 2))])


def _train(training: Training, lessons: Iterator[Batch], args: argparse.Namespace, save: Any) -> None:
    began, limit, told = time.monotonic(), 60 * args.minutes, list[Told]()
    while training.spent_s < limit and time.monotonic() - began < 60 * args.now:
        told.append(training.learn(next(lessons), args.rate * max(_LEAST, 1.0 - training.spent_s / limit)))
        if training.number % _TELL == 0:
            _tell(f"step {training.number}, {training.spent_s:.0f} s", told)
            told = []
        if training.number % _KEEP == 0:
            save()


def _vocabulary(args: argparse.Namespace, texts: Texts, whole: int, ends: Sequence[int]) -> npt.NDArray[np.int64]:
    """That of a head that goes on, or one for these texts."""
    if args.out.exists():
        with np.load(args.out) as kept:
            return np.asarray(kept["vocabulary"], np.int64)
    return draft_vocabulary(texts.likeliest, whole, args.vocabulary, ends)


def _sample(texts: Texts) -> npt.NDArray[np.int64]:
    """Places of some tokens that are not the first of a text: those have states far from all others."""
    first = np.array([begin for begin, _, _ in texts.spans])
    return np.setdiff1d(np.arange(min(len(texts.tokens), _LOOKED_AT)), first)


def _tell(what: str, told: Sequence[Told]) -> None:
    lost = np.mean([one for one, _ in told])
    right = " ".join(f"{share:.3f}" for share in np.mean([one for _, one in told], axis=0))
    print(f"{what}: loss {lost:.3f}, right {right}", flush=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("folder", type=Path, help="what `texts` wrote")
    found.add_argument("--out", type=Path, default=Path("head.npz"))
    found.add_argument("--minutes", type=float, default=30.0, help="of computing, in all runs together")
    found.add_argument("--now", type=float, default=1e9, help="end this run after so many minutes")
    found.add_argument("--vocabulary", type=int, default=4096, help="so many tokens may be guessed")
    found.add_argument("--steps", type=int, default=2, help="guesses in a row that it learns to make")
    found.add_argument("--fade", type=float, default=0.8, help="what each step counts beside the one before")
    found.add_argument("--rate", type=float, default=1e-3, help="learning rate after the first steps; it falls to zero")
    found.add_argument("--room", type=int, default=256, help="tokens of a row")
    found.add_argument("--rows", type=int, default=2, help="rows of a step")
    found.add_argument("--noise", type=float, default=0.2, help="share of each value by which it is changed by chance")
    found.add_argument("--hold-out", type=int, default=25, help="one text of so many is kept to try the head")
    return found


if __name__ == "__main__":
    main(parser().parse_args())
