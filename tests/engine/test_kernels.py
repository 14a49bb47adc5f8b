"""Our kernels: right, and a row's results do not depend on how many rows come with it."""

from dataclasses import dataclass

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.products import Floats, expert_product, product, stored
from tests.properties import examples
from twd.engine import build, kernels
from twd.engine.kernels import any_kernels, need_no_repacking, one_row_like_many, repacked_unevenly
from twd.engine.model import LoadedGguf
from twd.gguf_tools.constants import GGMLQuantizationType as Kind
from twd.gguf_tools.header import TensorInfo

needs_kernels = pytest.mark.skipif(not any_kernels(), reason="this build of llama.cpp has no kernels of ours")
LONG = (Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS)
BLOCKS = (Kind.Q8_0, Kind.Q5_0, Kind.Q4_0, Kind.IQ4_NL, *LONG)
KINDS = {Kind.F32: 1e-6, Kind.F16: 1e-3, Kind.BF16: 1e-2, **dict.fromkeys(BLOCKS, 1e-2)}
COUNTS = (1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 16, 17, 63, 64, 65, 130)


@dataclass(frozen=True)
class Case:
    kind: Kind
    rows: int
    columns: int

    def weights(self) -> Floats:
        return np.random.default_rng(1).standard_normal((self.rows, self.columns), np.float32)

    def inputs(self, count: int) -> Floats:
        return np.random.default_rng(2).standard_normal((count, self.columns), np.float32)


def tensor(name: str, kind: Kind, *shape: int) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, kind=kind, offset=0, size_bytes=0)


def whole_blocks(kind: Kind, columns: int) -> int:
    """As many columns, or somewhat more, as the blocks of a type ask."""
    block = max(32, int(GGML_QUANT_SIZES[kind][0]))
    return -(-columns // block) * block


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (4, 32),
        (600, 96),
        (576, 1536),
        (44, 1568),  # parts of a row that are not alike
        *(pytest.param(*shape, marks=pytest.mark.thorough) for shape in ((192, 576), (1536, 576))),
    ],
)
def test_a_row_alone_is_the_same_as_among_others(kind: Kind, rows: int, columns: int) -> None:
    case = Case(kind, rows, whole_blocks(kind, columns))
    weights, inputs = stored(kind, case.weights()), case.inputs(max(COUNTS))
    alone = np.concatenate([product(kind, weights, rows, inputs[at : at + 1], 1) for at in range(max(COUNTS))])
    for count in COUNTS:
        for threads in (1, 2, 3):
            assert np.array_equal(product(kind, weights, rows, inputs[:count], threads), alone[:count]), (
                count,
                threads,
            )


@pytest.mark.parametrize("kind", KINDS)
@examples(60)
@given(rows=st.integers(1, 70), blocks=st.integers(1, 20), count=st.integers(1, 70), threads=st.integers(1, 3))
def test_products_are_right(kind: Kind, rows: int, blocks: int, count: int, threads: int) -> None:
    case = Case(kind, rows, whole_blocks(kind, 32 * blocks))
    weights, inputs = stored(kind, case.weights()), case.inputs(count)
    kept = np.frombuffer(weights, np.uint8).reshape(rows, -1)
    wide = (kept.view(np.float32) if kind is Kind.F32 else dequantize(kept, kind)).astype(np.float64)
    wanted = inputs.astype(np.float64) @ wide.T
    scale = np.linalg.norm(inputs, axis=1)[:, None] * np.linalg.norm(wide, axis=1)[None, :]
    assert np.max(np.abs(product(kind, weights, rows, inputs, threads) - wanted) / scale) < KINDS[kind]


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_lie_apart_are_multiplied_as_those_that_do_not(kind: Kind) -> None:
    rows, columns = 36, whole_blocks(kind, 96)
    dice = np.random.default_rng(9)
    weights = stored(kind, dice.standard_normal((rows, columns), np.float32))
    inputs = dice.standard_normal((15, columns), np.float32)
    together = product(kind, weights, rows, inputs, 2)
    for count in (1, 2, 15):
        assert np.array_equal(product(kind, weights, rows, inputs[:count], 2, apart=3), together[:count])


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each", [1, 3])
def test_experts_are_right_and_a_row_is_the_same_in_any_company(kind: Kind, each: int) -> None:
    experts, rows, columns, count, used = 5, 36, whole_blocks(kind, 96), 90, 3
    dice = np.random.default_rng(3)
    weights = dice.standard_normal((experts, rows, columns), np.float32)
    inputs = dice.standard_normal((count, each, columns), np.float32)
    chosen = np.array([dice.permutation(experts)[:used] for _ in range(count)], np.int32)
    chosen[:, 0] = np.where(dice.random(count) < 0.9, 0, chosen[:, 0])  # one has more rows than are taken at once
    chosen[:, 1:] = np.where(chosen[:, 1:] == 0, 4, chosen[:, 1:])
    together = expert_product(kind, weights, inputs, chosen, 2)
    for at in (0, 7, 89):
        for threads in (1, 2, 3):
            alone = expert_product(kind, weights, inputs[at : at + 1], chosen[at : at + 1], threads)
            assert np.array_equal(alone[0], together[at])
    kept = np.frombuffer(stored(kind, weights.reshape(-1, columns)), np.uint8).reshape(experts * rows, -1)
    wide = (kept.view(np.float32) if kind is Kind.F32 else dequantize(kept, kind)).reshape(weights.shape)
    for choice in range(used):
        wanted = np.einsum("ec,erc->er", inputs[:, choice % each], wide[chosen[:, choice]])
        scale = np.linalg.norm(inputs[:, choice % each], axis=1)[:, None] * np.sqrt(columns)
        assert np.max(np.abs(together[:, choice] - wanted) / scale) < KINDS[kind]


@needs_kernels
def test_blocks_of_extreme_values_do_not_overflow() -> None:
    for kind in BLOCKS:
        columns = whole_blocks(kind, 64)
        weights = np.where(np.arange(8 * columns).reshape(8, columns) % 3 == 0, -127.0, 127.0).astype(np.float32)
        inputs = np.full((3, columns), -127.0, np.float32)
        kept = stored(kind, weights)
        wide = dequantize(np.frombuffer(kept, np.uint8).reshape(8, -1), kind)
        assert np.allclose(product(kind, kept, 8, inputs, 1), inputs @ wide.T, rtol=1e-3)


@needs_kernels
@pytest.mark.model
def test_one_row_goes_like_many_where_all_floats_are_covered(f16: LoadedGguf) -> None:
    assert one_row_like_many(f16.info.tensors)
    assert one_row_like_many([tensor("output.weight", Kind.Q4_K, 256, 8)])
    assert one_row_like_many([tensor("blk.0.ffn_up_exps.weight", Kind.F16, 40, 8, 4)])
    assert not one_row_like_many([tensor("output.weight", Kind.F16, 36, 8)])
    assert not one_row_like_many([tensor("output.weight", Kind.F16, 64, 7)])
    assert one_row_like_many([tensor("output.weight", Kind.BF16, 64, 7)])
    assert not one_row_like_many([tensor("output.weight", Kind.BF16, 36, 8)])


@needs_kernels
@pytest.mark.parametrize(
    ("blocks", "answer"),
    [
        ("Q4_0 Q8_0", True),
        ("Q4_K Q6_K", True),
        ("Q5_0 Q8_0 Q6_K", True),
        ("Q4_1 Q8_0", True),
        ("Q4_1", False),
        ("Q8_0 MXFP4", True),
        ("MXFP4", False),
        ("Q8_0:experts", True),
        ("", False),
    ],
)
def test_weights_are_repacked_where_none_are_covered(blocks: str, answer: bool) -> None:
    assert need_no_repacking(blocks) is answer


@pytest.mark.parametrize(
    ("blocks", "answer"), [("Q4_K Q6_K", True), ("Q2_K:experts Q8_0", True), ("Q4_0 Q8_0 IQ4_NL", False), ("", False)]
)
def test_k_quants_are_repacked_unevenly(blocks: str, answer: bool) -> None:
    assert repacked_unevenly(blocks) is answer


def test_a_build_without_them_covers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_ggml", lambda *_: None)
    kernels._covers.cache_clear()
    try:
        assert not any_kernels()
        assert not need_no_repacking("Q8_0")
        assert not one_row_like_many([tensor("output.weight", Kind.F16, 64, 8)])
        assert one_row_like_many([])
    finally:
        kernels._covers.cache_clear()


@pytest.mark.parametrize(
    ("uses", "ours", "lacking"),
    [("AVX2 F16C FMA", False, True), ("AVX2 F16C FEW_ROWS FMA", True, False), ("NEON ARM_FMA", False, False)],
)
def test_only_builds_that_could_have_them_lack_them(
    monkeypatch: pytest.MonkeyPatch, uses: str, ours: bool, lacking: bool
) -> None:
    monkeypatch.setattr(build, "engine_build", lambda: f"0.3.36 {uses}")
    monkeypatch.setattr(build, "any_kernels", lambda: ours)
    assert build.lacks_kernels() is lacking
