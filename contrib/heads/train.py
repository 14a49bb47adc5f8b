"""Trains a head from stored texts, for so many minutes of computing. What it has is written again and again.

    HEADS_PYTHON contrib/heads/train.py FOLDER --out head.npz --minutes 30

A run that was ended goes on where it was last written.
"""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    def __init__(self, weights: net.Weights, shape: net.Shape, steps: int, fade: float, noise: float = 0.0) -> None:
        self.fixed = {_FIXED: jnp.asarray(weights[_FIXED])}
        """The output matrix stays that of the target: so it cannot be learned by heart from few texts."""
        self.weights = {name: jnp.asarray(values) for name, values in weights.items() if name != _FIXED}
        self.first, self.second = ({name: jnp.zeros_like(one) for name, one in self.weights.items()} for _ in range(2))
        self.number, self.spent_s = 0, 0.0
        judge = partial(_judged, shape=shape, steps=steps, fade=fade)
        self._judge = jax.jit(judge)
        self._step = jax.jit(partial(_stepped, judge, noise), donate_argnums=(0, 1))

    def learn(self, rows: Batch, rate: float) -> Told:
        """One step; returns the loss and the share of right guesses in each step of a run."""
        began = _clock()
        self.number += 1
        asked = (jnp.float32(rate * min(1.0, self.number / _WARM)), jnp.int32(self.number))
        told = self._step(self.weights, (self.first, self.second), self.fixed, rows, *asked)
        self.weights, (self.first, self.second), lost, right = told
        found = float(lost), np.asarray(right)
        self.spent_s += _clock() - began
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


def _clock() -> float:
    """Seconds of computing: on a processor its own, whatever else runs there."""
    return time.process_time() if jax.default_backend() == "cpu" else time.monotonic()


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
    judge: Any, noise: float, weights: net.Weights, moments: Any, fixed: net.Weights, rows: Any, rate: Any, number: Any
) -> Any:
    """One step. With noise on what it reads, a head cannot know texts by it."""
    if noise:
        dice = jax.random.split(jax.random.key(number), len(_READ))
        rows = {**rows, **{name: _noisy(rows[name], noise, key) for name, key in zip(_READ, dice, strict=True)}}
    (lost, right), slopes = jax.value_and_grad(judge, has_aux=True)(weights, fixed, rows)
    weights, moments = net.adam(weights, slopes, moments, rate, number)
    return weights, moments, lost, right


def _noisy(values: Any, noise: float, dice: Any) -> Any:
    return values * (1 + noise * jax.random.normal(dice, values.shape))


class Lessons:
    """Batches of stored texts."""

    def __init__(self, texts: Texts, embedding: npt.NDArray[np.float32], small: npt.NDArray[np.int32]) -> None:
        self._texts, self._embedding, self._small = texts, embedding, small

    def without_end(self, chosen: Sequence[int], room: int, rows: int, seed: int) -> Iterator[Batch]:
        """Of the chosen texts, each time mixed anew."""
        dice = np.random.default_rng(seed)
        lengths = [int(self._texts.spans[number][1] - self._texts.spans[number][0]) - 1 for number in chosen]
        while True:
            groups = [[chosen[one] for one in group] for group in packed(lengths, room, dice)]
            for start in range(0, len(groups) - rows + 1, rows):
                yield batch(self._texts, groups[start : start + rows], room, self._embedding, self._small)


def made_ahead(lessons: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """Batches of all of these in turn. The next one of each is made while others are computed."""
    with ThreadPoolExecutor(len(lessons)) as pool:
        coming = deque((source, pool.submit(next, source)) for source in lessons)
        while True:
            source, made = coming.popleft()
            found = made.result()
            coming.append((source, pool.submit(next, source)))
            yield found


def main(args: argparse.Namespace) -> None:
    """Read, train, write."""
    facts, target = read_target(args.folder / "target.npz")
    texts = read_texts(args.folder)
    whole, width = target["embedding"].shape
    vocabulary = _vocabulary(args, texts, whole, facts["ends"])
    print(f"{len(texts.tokens)} tokens, {coverage(texts.likeliest, vocabulary):.1%} may be guessed", flush=True)
    shape = net.Shape(facts["heads"], target["attn_q"].shape[0] // facts["heads"], facts["base"], facts["epsilon"])
    begun = first_weights(target, texts.rows[_sample(texts), :-width], facts["heads"], vocabulary)
    training = Training(begun, shape, args.steps, args.fade, args.noise)
    if args.out.exists():
        training.go_on(args.out)
    lessons = Lessons(texts, target["embedding"], places(vocabulary, whole))
    held = list(range(0, len(texts.ends), args.hold_out))
    rest = sorted(set(range(len(texts.ends))) - set(held))
    save = partial(training.save, args.out, vocabulary=vocabulary)
    seeds = range(training.number, training.number + args.makers)
    ahead = made_ahead([lessons.without_end(rest, args.room, args.rows, seed) for seed in seeds])
    _train(training, ahead, args, save)
    save()
    judged = lessons.without_end(held, args.room, 1, 0)
    _tell("texts it has not seen", [training.tried(next(judged)) for _ in range(max(1, len(held) // 2))])


def _train(training: Training, lessons: Iterator[Batch], args: argparse.Namespace, save: Any) -> None:
    began, told = time.monotonic(), list[Told]()
    while (left := _left(training, args)) > 0 and time.monotonic() - began < 60 * args.now:
        told.append(training.learn(next(lessons), args.rate * max(_LEAST, left)))
        if training.number % _TELL == 0:
            _tell(f"step {training.number}, {training.spent_s:.0f} s", told)
            told = []
        if training.number % _KEEP == 0:
            save()


def _left(training: Training, args: argparse.Namespace) -> float:
    """The share of the training that is still to come."""
    return 1.0 - (training.number / args.lessons if args.lessons else training.spent_s / (60 * args.minutes))


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
    found.add_argument("--lessons", type=int, default=0, help="steps, in all runs together, instead of minutes")
    found.add_argument("--now", type=float, default=1e9, help="end this run after so many minutes")
    found.add_argument("--vocabulary", type=int, default=4096, help="so many tokens may be guessed")
    found.add_argument("--steps", type=int, default=2, help="guesses in a row that it learns to make")
    found.add_argument("--fade", type=float, default=0.8, help="what each step counts beside the one before")
    found.add_argument("--rate", type=float, default=1e-3, help="learning rate after the first steps; it falls to zero")
    found.add_argument("--room", type=int, default=256, help="tokens of a row")
    found.add_argument("--rows", type=int, default=2, help="rows of a step")
    found.add_argument("--makers", type=int, default=1, help="threads that make batches; some for a GPU")
    found.add_argument("--noise", type=float, default=0.2, help="share of each value by which it is changed by chance")
    found.add_argument("--hold-out", type=int, default=25, help="one text of so many is kept to try the head")
    return found


if __name__ == "__main__":
    main(parser().parse_args())
