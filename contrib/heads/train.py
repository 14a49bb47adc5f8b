"""Trains a head from stored texts, for so many minutes. What it has is written again and again.

HEADS_PYTHON contrib/heads/train.py FOLDER --out head.npz --minutes 30
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from contrib.heads import net
from contrib.heads.begin import first_weights
from contrib.heads.rows import Batch, Texts, batch, packed, read_texts
from contrib.heads.target import read_target
from contrib.heads.vocabulary import coverage, draft_vocabulary, places

_FIXED = "output"
_WARM, _LEAST = 40, 0.03
_TELL, _KEEP = 25, 100
_LOOKED_AT = 20_000


class Training:
    """The weights of a head while they change."""

    def __init__(self, weights: net.Weights, shape: net.Shape, steps: int, fade: float) -> None:
        self.fixed = {_FIXED: jnp.asarray(weights[_FIXED])}
        """The output matrix stays that of the target: so it cannot be learned by heart from few texts."""
        self.weights = {name: jnp.asarray(values) for name, values in weights.items() if name != _FIXED}
        self.moments = tuple({name: jnp.zeros_like(one) for name, one in self.weights.items()} for _ in range(2))
        self.number = 0
        judge = partial(_judged, shape=shape, steps=steps, fade=fade)
        self._judge = jax.jit(judge)
        self._step = jax.jit(partial(_stepped, judge), donate_argnums=(0, 1))

    def learn(self, rows: Batch, rate: float) -> tuple[float, np.ndarray[Any, Any]]:
        """One step; returns the loss and the share of right guesses in each step of a run."""
        self.number += 1
        asked = (jnp.float32(rate * min(1.0, self.number / _WARM)), jnp.float32(self.number))
        told = self._step(self.weights, self.moments, self.fixed, rows, *asked)
        self.weights, self.moments, lost, right = told
        return float(lost), np.asarray(right)

    def tried(self, rows: Batch) -> tuple[float, np.ndarray[Any, Any]]:
        """The same without a change."""
        lost, right = self._judge(self.weights, self.fixed, rows)
        return float(lost), np.asarray(right)

    def save(self, path: Path, **more: Any) -> None:
        """Write all weights; the file is whole at any time."""
        part = path.with_name(path.name + ".part")
        with part.open("wb") as out:
            np.savez(out, **more, **{name: np.asarray(one) for name, one in {**self.weights, **self.fixed}.items()})
        part.rename(path)


def _judged(weights: net.Weights, fixed: net.Weights, rows: Any, shape: net.Shape, steps: int, fade: float) -> Any:
    return net.loss({**weights, **fixed}, rows, shape, steps, fade)


def _stepped(
    judge: Any, weights: net.Weights, moments: Any, fixed: net.Weights, rows: Any, rate: Any, number: Any
) -> Any:
    (lost, right), slopes = jax.value_and_grad(judge, has_aux=True)(weights, fixed, rows)
    weights, moments = net.adam(weights, slopes, moments, rate, number)
    return weights, moments, lost, right


def rows_without_end(texts: Texts, chosen: list[int], args: Any, embedding: Any, small: Any) -> Iterator[Batch]:
    """Batches of the chosen texts, each time mixed anew."""
    dice = np.random.default_rng(5)
    lengths = [int(texts.spans[number][1] - texts.spans[number][0]) - 1 for number in chosen]
    while True:
        groups = [[chosen[one] for one in group] for group in packed(lengths, args.room, dice)]
        for start in range(0, len(groups) - args.rows + 1, args.rows):
            yield batch(texts, groups[start : start + args.rows], args.room, embedding, small)


def main(args: argparse.Namespace) -> None:
    """Read, train, write."""
    began = time.monotonic()
    facts, target = read_target(args.folder / "target.npz")
    texts = read_texts(args.folder, args.tokens)
    whole = len(target["embedding"])
    vocabulary = draft_vocabulary(texts.likeliest, whole, args.vocabulary, facts["ends"])
    print(
        f"{len(texts.tokens)} tokens, of which {coverage(texts.likeliest, vocabulary):.1%} may be guessed", flush=True
    )
    shape = net.Shape(facts["heads"], target["attn_q"].shape[0] // facts["heads"], facts["base"], facts["epsilon"])
    width, places_of = target["embedding"].shape[1], places(vocabulary, whole)
    inner = texts.rows[_sample(texts), :-width]
    training = Training(first_weights(target, inner, facts["heads"], vocabulary), shape, args.steps, args.fade)
    numbers = list(range(len(texts.ends)))
    held = numbers[:: args.hold_out] if args.hold_out else []
    rest = sorted(set(numbers) - set(held))
    stream = rows_without_end(texts, rest, args, target["embedding"], places_of)
    save = partial(training.save, args.out, vocabulary=vocabulary)
    limit, seen, told = 60 * args.minutes, 0.0, []
    while (part := (time.monotonic() - began) / limit) < 1.0:
        rows = next(stream)
        told.append(training.learn(rows, args.rate * max(_LEAST, 1.0 - part)))
        seen += float((rows["texts"] >= 0).sum())
        if training.number % _TELL == 0:
            _tell(
                f"step {training.number}, {time.monotonic() - began:.0f} s, {seen / len(texts.tokens):.2f} rounds", told
            )
            told = []
        if training.number % _KEEP == 0:
            save()
    save()
    if held:
        args.rows = 1
        judged = rows_without_end(texts, held, args, target["embedding"], places_of)
        _tell("texts it has not seen", [training.tried(next(judged)) for _ in range(max(1, len(held) // 4))])


def _sample(texts: Texts) -> np.ndarray[Any, Any]:
    """Places of some tokens that are not the first of a text: those have states far from all others."""
    first = np.array([begin for begin, _, _ in texts.spans])
    return np.setdiff1d(np.arange(min(len(texts.tokens), _LOOKED_AT)), first)


def _tell(what: str, told: list[tuple[float, Any]]) -> None:
    lost = np.mean([one for one, _ in told])
    right = " ".join(f"{share:.3f}" for share in np.mean([one for _, one in told], axis=0))
    print(f"{what}: loss {lost:.3f}, right {right}", flush=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("folder", type=Path, help="what `texts` wrote")
    found.add_argument("--out", type=Path, default=Path("head.npz"))
    found.add_argument("--minutes", type=float, default=30.0)
    found.add_argument("--tokens", type=int, default=0, help="learn from so many; 0: from all")
    found.add_argument("--vocabulary", type=int, default=8192, help="so many tokens may be guessed")
    found.add_argument("--steps", type=int, default=3, help="guesses in a row that it learns to make")
    found.add_argument("--fade", type=float, default=0.8, help="what each step counts beside the one before")
    found.add_argument("--rate", type=float, default=1e-3, help="learning rate after the first steps")
    found.add_argument("--room", type=int, default=256, help="tokens of a row")
    found.add_argument("--rows", type=int, default=2, help="rows of a step")
    found.add_argument("--hold-out", type=int, default=25, help="one text of so many is kept to try the head; 0: none")
    return found


if __name__ == "__main__":
    main(parser().parse_args())
