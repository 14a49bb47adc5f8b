"""What a mixture chooses whose experts are all in memory, and what another one does with that."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.experts.unlike import write_unlike
from tests.engine.experts.windows import TEXT, run
from tests.engine.tiny_models import write_llama
from tests.properties import examples
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.experts.choices import remembers_choices
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import Foresight, can_tell_choices
from twd.engine.experts.stream import by_layer
from twd.engine.model import LoadedGguf, ModelLoadOptions

LAYERS, USED = 4, 2
WIDTHS = (5, *[1] * 30)
able = pytest.mark.skipif(not can_tell_choices(), reason="this build of llama.cpp does not tell what tokens choose")


@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), max_size=5))
@examples(50)
def test_experts_are_asked_for_once_and_those_of_early_layers_first(choices: list[list[int]]) -> None:
    layers, numbers = by_layer(choices, 3)
    pairs = list(zip(layers.tolist(), numbers.tolist(), strict=True))
    assert pairs == sorted({(place // 2, one) for choice in choices for place, one in enumerate(choice)})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unlike(tmp_path_factory.mktemp("unlike") / "unlike.gguf", layers=LAYERS, experts=16)


@able
def test_a_dense_model_remembers_nothing(tmp_path: Path) -> None:
    dense = write_llama(tmp_path / "dense.gguf")
    assert not remembers_choices(dense)
    with LoadedGguf.load(ModelLoadOptions(dense, remember=True)) as model:
        assert model.choices is None


@able
def test_two_models_of_one_file_choose_the_same(path: Path) -> None:
    """One whole in memory, one that reads its experts; both in this process at once, and neither counts the other."""
    assert remembers_choices(path)
    layout = expert_layout(path)
    assert layout is not None
    half = layout.padded_bytes(mmap.PAGESIZE) // 2
    with (
        LoadedGguf.load(ModelLoadOptions(path, remember=True)) as whole,
        LoadedGguf.load(ModelLoadOptions(path, expert_bytes=half)) as streamed,
    ):
        assert np.array_equal(run(whole, WIDTHS), run(streamed, WIDTHS))
        assert whole.choices is not None
        assert streamed.experts is not None
        for token in TEXT[:35]:
            choice = whole.choices.chosen(token)
            assert len(choice) == LAYERS * USED
            assert choice == streamed.experts.chosen(token)
        assert whole.choices.chosen(TEXT[38]) == []
        assert whole.choices.chosen(-1) == whole.choices.chosen(1 << 40) == []
        assert whole.choices.numbers().passes == streamed.experts.numbers().passes == 31
        assert whole.choices.experts_by_layer == (16,) * LAYERS


@able
def test_rows_that_give_no_logits_choose_in_all_layers_but_the_last(path: Path) -> None:
    with (
        LoadedGguf.load(ModelLoadOptions(path, remember=True)) as model,
        Context(model, ContextSettings(ctx_size=128, type_k="f16")) as context,
    ):
        rows = BatchTokens()
        rows.add(0, 0, TEXT[:6], output_from=4)
        context.decode(rows)
        assert model.choices is not None
        known = [len(model.choices.chosen(token)) for token in TEXT[:6]]
        assert known == [0, 0, 0, 0, LAYERS * USED, LAYERS * USED]


@able
def test_tokens_of_passes_that_nobody_tells_are_not_mistaken(path: Path) -> None:
    with LoadedGguf.load(ModelLoadOptions(path, remember=True)) as model:
        run(model, WIDTHS)
        choices = model.choices
        assert choices is not None
        known = [choices.chosen(token) for token in TEXT[:35]]
        model.choices = None
        run(model, (1,) * 10)
        assert [choices.chosen(token) for token in TEXT[:35]] == known
        model.choices = choices


@able
@pytest.mark.parametrize("how", [Foresight.OFF, Foresight.ON], ids=["off", "on"])
def test_told_choices_are_read_before_they_are_wanted(path: Path, how: Foresight) -> None:
    layout = expert_layout(path)
    assert layout is not None
    with LoadedGguf.load(ModelLoadOptions(path, remember=True)) as whole:
        expected = run(whole, WIDTHS)
        assert whole.choices is not None
        told = [whole.choices.chosen(token) for token in TEXT[:3]]
    with LoadedGguf.load(ModelLoadOptions(path, expert_bytes=layout.padded_bytes(mmap.PAGESIZE))) as streamed:
        assert streamed.experts is not None
        native = streamed.experts.native
        native.set_foresight(how)
        streamed.experts.foresee_choices(told)
        asked = native.numbers().foreseen
        assert asked == (len(by_layer(told, LAYERS)[0]) if how is Foresight.ON else 0)
        assert np.array_equal(run(streamed, (3, 1, 1)), expected[:5])
        if how is Foresight.ON:
            assert native.numbers().foreseen_used >= asked
