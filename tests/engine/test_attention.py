"""Our attention: right, and a row's result depends neither on its neighbours nor on what it does not see."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.products import Floats, Query, attention
from tests.properties import examples
from twd.engine.kernels import has_attention
from twd.gguf_tools.constants import GGMLQuantizationType as Kind

pytestmark = pytest.mark.skipif(not has_attention(64, 64), reason="this build of llama.cpp has no kernels of ours")
KINDS = {
    (Kind.F16, Kind.F16): 2e-3,
    (Kind.F32, Kind.F32): 1e-4,
    (Kind.Q8_0, Kind.F16): 3e-2,
    (Kind.Q8_0, Kind.Q8_0): 5e-2,
}
NOTHING = -np.inf


def query(rows: int, places: int, *, heads: int = 6, kv_heads: int = 2, length: int = 64, width: int = 64) -> Query:
    """Rows that continue a text: each sees all places up to its own, the last of which is the last but nine."""
    random = np.random.default_rng(rows * 1000 + places)
    seen = np.arange(places)[None, :] <= places - 10 - rows + np.arange(rows)[:, None] + 1
    return Query(
        q=random.standard_normal((heads, rows, length), np.float32),
        k=random.standard_normal((kv_heads, places, length), np.float32),
        v=random.standard_normal((kv_heads, places, width), np.float32),
        mask=np.where(seen, 0.0, NOTHING).astype(np.float32),
    )


def wanted(of: Query) -> Floats:
    heads, rows, _ = of.q.shape
    group = heads // of.k.shape[0]
    out = np.zeros((rows, heads, of.v.shape[2]))
    power = 2 ** int(np.log2(heads))
    for head in range(heads):
        k, v = of.k[head // group].astype(np.float64), of.v[head // group].astype(np.float64)
        weights = of.q[head].astype(np.float64) @ k.T * of.scale
        weights = of.cap * np.tanh(weights / of.cap) if of.cap else weights
        slope = 1.0
        if of.bias:
            first, second = 2 ** (-of.bias / power), 2 ** (-of.bias / 2 / power)
            slope = first ** (head + 1) if head < power else second ** (2 * (head - power) + 1)
        weights = weights + slope * of.mask
        most = weights.max(axis=1, keepdims=True)
        shares = np.exp(weights - most)
        total = shares.sum(axis=1, keepdims=True)
        if of.sinks is not None:
            total = total + np.exp(of.sinks[head] - most)
        out[:, head] = shares / total @ v
    return out.astype(np.float32)


@pytest.mark.parametrize(("kinds", "error"), KINDS.items())
@pytest.mark.parametrize(("length", "width"), [(64, 64), (128, 96), (32, 16), (192, 128)])
def test_it_is_right(kinds: tuple[Kind, Kind], error: float, length: int, width: int) -> None:
    if Kind.Q8_0 in kinds and width % 32:
        pytest.skip("values of this width cannot be kept so")
    for rows, places in ((1, 33), (5, 300), (17, 64), (40, 200)):
        of = query(rows, places, length=length, width=width)
        assert np.max(np.abs(attention(of, *kinds, threads=2) - wanted(of))) < error


@examples(40)
@given(
    rows=st.integers(1, 40), places=st.integers(60, 700), threads=st.integers(1, 3), kinds=st.sampled_from(list(KINDS))
)
def test_a_row_alone_is_the_same_as_among_others(
    rows: int, places: int, threads: int, kinds: tuple[Kind, Kind]
) -> None:
    of = query(rows, places)
    together = attention(of, *kinds, threads=threads)
    for row in {0, rows // 2, rows - 1}:
        assert np.array_equal(attention(of.rows(row, row + 1), *kinds, threads=1)[0], together[row])


@examples(40)
@given(
    rows=st.integers(1, 20),
    places=st.integers(60, 200),
    threads=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    sharing=st.sampled_from([1, 2, 3, 4, 12, 16, 20]),
    hole=st.booleans(),
)
def test_a_head_alone_is_the_same_as_beside_those_that_share_its_keys(
    rows: int, places: int, threads: int, kv_heads: int, sharing: int, hole: bool
) -> None:
    of = query(rows, places, heads=kv_heads * sharing, kv_heads=kv_heads, length=32, width=32)
    if hole:
        of.mask[: (rows + 1) // 2, 3:9] = NOTHING
    together = attention(of, Kind.F16, Kind.F16, threads=threads)
    for head in {0, kv_heads * sharing - 1}:
        keys = slice(head // sharing, head // sharing + 1)
        alone = replace(of, q=of.q[head : head + 1], k=of.k[keys], v=of.v[keys])
        assert np.array_equal(attention(alone, Kind.F16, Kind.F16, threads=1)[:, 0], together[:, head])
    assert np.max(np.abs(together - wanted(of))) < 2e-3


@examples(40)
@given(
    rows=st.integers(1, 20),
    places=st.integers(60, 300),
    more=st.integers(1, 300),
    rubbish=st.sampled_from([0.0, 7.0, np.nan]),
)
def test_what_no_row_sees_changes_nothing(rows: int, places: int, more: int, rubbish: float) -> None:
    of = query(rows, places)

    def wider(values: Floats) -> Floats:
        return np.concatenate([values, np.full((values.shape[0], more, values.shape[2]), rubbish, np.float32)], axis=1)

    mask = np.concatenate([of.mask, np.full((rows, more), NOTHING, np.float32)], axis=1)
    longer = replace(of, k=wider(of.k), v=wider(of.v), mask=mask)
    kinds = (Kind.F16, Kind.F16)
    assert np.array_equal(attention(of, *kinds, threads=2), attention(longer, *kinds, threads=2))


@pytest.mark.parametrize("value", [70_000.0, np.nan])
def test_what_only_others_see_changes_nothing(value: float) -> None:
    of = query(6, 80)
    of.mask[::2, -1], of.mask[1::2, -1] = NOTHING, 0.0
    of.v[:, -1, 5] = value  # too much for half precision
    together = attention(of, Kind.F16, Kind.F16, threads=1)
    assert np.isfinite(together[::2]).all()
    assert not np.isfinite(together[1::2]).all()


@examples(40)
@given(rows=st.integers(1, 20), places=st.integers(60, 300), seed=st.integers(0, 1000))
def test_where_it_lies_changes_nothing(rows: int, places: int, seed: int) -> None:
    of = query(rows, places)
    random = np.random.default_rng(seed)
    room = places + int(random.integers(1, 200))
    at = np.sort(random.choice(room, places, replace=False))

    def spread(values: Floats) -> Floats:
        out = np.full((values.shape[0], room, values.shape[2]), np.nan, np.float32)
        out[:, at] = values
        return out

    mask = np.full((rows, room), NOTHING, np.float32)
    mask[:, at] = of.mask
    gaps = replace(of, k=spread(of.k), v=spread(of.v), mask=mask)
    kinds = (Kind.F16, Kind.F16)
    assert np.array_equal(attention(of, *kinds, threads=2), attention(gaps, *kinds, threads=2))


def test_a_row_that_sees_nothing_is_nothing() -> None:
    of = query(3, 100)
    of.mask[1] = NOTHING
    out = attention(of, Kind.F16, Kind.F16, threads=1)
    assert not out[1].any()
    assert out[0].all()
    assert out[2].all()


def test_gaps_in_what_is_seen() -> None:
    of = query(4, 400)
    of.mask[:, 70:260] = NOTHING
    of.mask[1, :64] = NOTHING
    assert np.max(np.abs(attention(of, Kind.F16, Kind.F16, threads=2) - wanted(of))) < 2e-3


@pytest.mark.parametrize("heads", [4, 6])
def test_distances_caps_and_sinks_count_as_in_llama_cpp(heads: int) -> None:
    of = query(7, 150, heads=heads)
    distance = np.where(np.isinf(of.mask), NOTHING, -0.25 * (np.arange(150)[None, :] % 16)).astype(np.float32)
    for changed in (
        replace(of, mask=distance, bias=8.0),
        replace(of, cap=2.0),
        replace(of, sinks=np.linspace(-2, 6, heads, dtype=np.float32)),
    ):
        out = attention(changed, Kind.F16, Kind.F16, threads=2)
        assert np.max(np.abs(out - wanted(changed))) < 3e-3
        assert np.max(np.abs(out - wanted(of))) > 1e-2
