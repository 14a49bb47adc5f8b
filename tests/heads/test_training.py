"""The head learns: of a tiny random model, from texts that it wrote itself. Left out where JAX is not installed."""

from pathlib import Path

import numpy as np
import pytest

from contrib.heads.begin import first_weights
from contrib.heads.rows import batch, read_texts
from contrib.heads.save_target import save_target
from contrib.heads.target import read_target
from contrib.heads.texts import Text, Writer, save
from contrib.heads.vocabulary import draft_vocabulary, places
from twd.engine.model import LoadedGguf

pytest.importorskip("jax")

ROOM, STEPS = 24, 3


def write_some(model: LoadedGguf, folder: Path) -> None:
    writer = Writer(model, [0, 1, 1], together=4, longest=ROOM, threads=1)
    try:
        texts = list(writer.write(iter([Text([3 + number, 5], 2, 0.5) for number in range(8)])))
    finally:
        writer.context.close()
    save_target(model.settings.path, [0, 1, 1], [2], folder / "target.npz")
    save(texts, folder / "texts-0000.npz")


def test_its_loss_falls(tiny: LoadedGguf, tmp_path: Path) -> None:
    from contrib.heads.net import Shape
    from contrib.heads.train import Training

    write_some(tiny, tmp_path)
    texts, (facts, target) = read_texts(tmp_path), read_target(tmp_path / "target.npz")
    whole, width = target["embedding"].shape
    vocabulary = draft_vocabulary(texts.likeliest, whole, whole // 2, facts["ends"])
    weights = first_weights(target, texts.rows[1:, :-width], facts["heads"], vocabulary)
    shape = Shape(facts["heads"], width // facts["heads"], facts["base"], facts["epsilon"])
    training = Training(weights, shape, STEPS, 0.8)
    rows = batch(
        texts, [[number] for number in range(len(texts.ends))], ROOM, target["embedding"], places(vocabulary, whole)
    )
    losses = [training.learn(rows, 3e-3)[0] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    training.save(tmp_path / "head.npz", vocabulary=vocabulary)
    with np.load(tmp_path / "head.npz") as kept:
        assert set(kept.files) == {*weights, "vocabulary"}
