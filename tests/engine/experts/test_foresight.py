"""Experts that are read before they are wanted: the same bits, whatever is foreseen."""

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.engine.experts.unlike import write_unlike
from tests.engine.experts.windows import TEXT, run
from twd.decoding.sampler import SamplerFactory
from twd.decoding.window import Window
from twd.engine.context import BatchTokens, Context, ContextSettings, Logits
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import Foresight, NativeExperts, can_foresee, can_tell_choices
from twd.engine.experts.stream import by_layer
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.target import LocalTarget
from twd.wire.job import Sampling

pytestmark = pytest.mark.skipif(not can_foresee(), reason="this build of llama.cpp cannot foresee experts")
WIDTHS = (5, *[1] * 20, 8, 3, *[1] * 20)
LAYERS = 4
COUNT = 40
"""Tokens one after the other."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unlike(tmp_path_factory.mktemp("unlike") / "unlike.gguf", layers=LAYERS, experts=16)


@pytest.fixture(scope="module")
def expected(path: Path) -> Logits:
    with LoadedGguf.load(ModelLoadOptions(path, use_extra_bufts=False)) as model:
        return run(model, WIDTHS)


def loaded(path: Path, part: float) -> LoadedGguf:
    layout = expert_layout(path)
    assert layout is not None
    whole, least = layout.padded_bytes(mmap.PAGESIZE), layout.layer_bytes(mmap.PAGESIZE)
    return LoadedGguf.load(ModelLoadOptions(path, expert_bytes=max(least, int(part * whole))))


def native_of(model: LoadedGguf) -> NativeExperts:
    assert model.experts is not None
    return model.experts.native


QUICK = {(0.5, how) for how in Foresight} | {(0.0, Foresight.ON)}
"""Some experts in memory whatever is foreseen, and hardly room for one layer's; the others where there is more time."""


@pytest.mark.parametrize(
    ("part", "how"),
    [
        pytest.param(
            part, how, marks=() if (part, how) in QUICK else pytest.mark.thorough, id=f"{part}-{how.name.lower()}"
        )
        for part in (0.0, 0.5, 1.0)
        for how in Foresight
    ],
)
def test_logits_are_the_same_to_the_bit(path: Path, expected: Logits, how: Foresight, part: float) -> None:
    with loaded(path, part) as model:
        native_of(model).set_foresight(how)
        for _ in range(3):
            assert np.array_equal(run(model, WIDTHS), expected)
        told = native_of(model).numbers()
        assert told.held_bytes <= told.budget
        if how is Foresight.OFF:
            assert told.foreseen == 0
        if how is Foresight.ON and part == 0.5:
            assert told.foreseen > 20
            assert told.foreseen_used > told.foreseen / 3, "the next layer's router is often right"


def test_what_tokens_choose_is_learned_and_read_ahead(path: Path, expected: Logits) -> None:
    with loaded(path, 0.5) as model:
        native = native_of(model)
        native.set_foresight(Foresight.ON)
        run(model, WIDTHS)
        first = native.numbers()
        assert (first.table_asked, first.table_right) == (0, 0)
        assert np.array_equal(run(model, WIDTHS), expected)
        again = native.numbers()
        assert again.table_asked > 2 * LAYERS * 40
        assert again.table_right == again.table_asked, "the same text chooses the same experts"
        assert native.foresee_tokens(TEXT[:4]) > 0
        assert np.array_equal(run(model, WIDTHS), expected)


def hits(model: LoadedGguf, named: Sequence[Sequence[int]]) -> int:
    """How many choices of one token after the other are in memory, with these named before each."""
    native = native_of(model)
    run(model, [1] * COUNT)  # the next layer's router alone knows the same in each round
    before = native.numbers().hits
    with Context(model, ContextSettings(ctx_size=128, type_k="f16")) as context:
        for at in range(COUNT):
            native.foresee(*by_layer(named[at : at + 1], LAYERS))
            rows = BatchTokens()
            rows.add(0, at, TEXT[at : at + 1])
            context.decode(rows)
    return native.numbers().hits - before


@pytest.mark.skipif(not can_tell_choices(), reason="this build of llama.cpp does not tell what tokens choose")
def test_named_choices_are_there_in_time_and_others_are_not(path: Path) -> None:
    with loaded(path, 0.5) as model:
        native_of(model).set_foresight(Foresight.ON)
        run(model, [1] * COUNT)
        right = [native_of(model).chosen(token) for token in TEXT[:COUNT]]
        assert all(right)
        assert hits(model, right) > hits(model, [])


def test_tokens_of_one_call_are_learned_like_others(path: Path) -> None:
    """The same text twice, its first token alone and the others as many in one call as the target likes."""
    new = Sampling(repeat_last_n=-1, frequency_penalty=1000.0)  # no token stands there twice
    with loaded(path, 0.5) as model:
        target = LocalTarget(Context(model, ContextSettings(ctx_size=128, parallel=1, type_k="f16")))
        for _ in range(2):
            slot, _ = target.open([7], SamplerFactory(model.vocab).sampler(new, 0, prompt_len=1, ignore_eos=True))
            text = [7]
            while len(text) < 40:
                target.submit([Window(slot, 0, len(text) - 1, (text[-1],), steps=8 if len(text) > 1 else 1)])
                (verdict,) = target.collect()
                text += verdict.tokens
            assert len(set(text)) == len(text)
            target.close(slot)
        told = native_of(model).numbers()
        target.shutdown()
    assert told.table_asked > 2 * LAYERS * 30
    assert told.table_right == told.table_asked


def test_what_windows_will_read_grows_with_their_tokens(path: Path) -> None:
    with loaded(path, 0.5) as model:
        run(model, WIDTHS)
        run(model, WIDTHS)
        native = native_of(model)
        sizes = native.missing(TEXT[:16])
        assert sizes == sorted(sizes)
        assert 0 < sizes[-1] <= 16 * 2 * LAYERS * 3 * 18 * 4096
        assert len(model.experts.missing_ms(TEXT[:3])) == 3 if model.experts else False
    with loaded(path, 1.0) as model:
        run(model, WIDTHS)
        run(model, [1] * len(TEXT))
        assert native_of(model).missing(TEXT[:16])[-1] == 0, "all that it knows is in memory"


def test_tokens_of_a_hostile_drafter_are_dropped(path: Path, expected: Logits) -> None:
    with loaded(path, 0.5) as model:
        native = native_of(model)
        native.set_foresight(Foresight.ON)
        run(model, WIDTHS)
        assert native.foresee_tokens([-1, -(1 << 40), 1 << 40, (1 << 31) - 1, 4096 * 7 + 5]) == 0
        assert native.missing([1 << 40])[0] >= 0
        assert np.array_equal(run(model, WIDTHS), expected)
