"""Where experts lie in files, and how much memory they get."""

import itertools
import mmap
from pathlib import Path

import pytest

from tests.engine.experts.unlike import INNER, WIDTH, write_unlike
from tests.engine.tiny_models import write_llama
from twd.engine.experts.budget import ExpertWish, MachineRoom, adapted_budget, expert_budget, spare
from twd.engine.experts.layout import ExpertLayout, ExpertMatrix, Stretch, expert_layout
from twd.engine.experts.overlay import Fragment, parse_maps
from twd.gguf_tools.header import read_header
from twd.wire.failures import FailureCode, TwdError

MIB = 1 << 20
EACH = INNER * WIDTH // 32 * 34


def test_everything_is_either_an_expert_or_dense(tmp_path: Path) -> None:
    path = write_unlike(tmp_path / "m.gguf")
    found = expert_layout(path)
    assert found is not None
    assert found.layers == (0, 1, 2, 3)
    assert {matrix.each for matrix in found.matrices} == {EACH}
    assert found.expert_bytes == 4 * 8 * 3 * EACH
    assert found.slots == 32
    assert found.layer_bytes(4096) == 8 * 3 * -(-EACH // 4096) * 4096
    header = read_header(path)
    assert found.dense_bytes == sum(tensor.size_bytes for tensor in header.tensors) - found.expert_bytes
    taken = sorted([(one.start, one.end) for one in found.dense] + [(one.offset, one.end) for one in found.matrices])
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(taken)), "nothing overlaps"


def test_a_dense_model_has_no_layout(tmp_path: Path) -> None:
    assert expert_layout(write_llama(tmp_path / "dense.gguf")) is None


@pytest.fixture
def layout() -> ExpertLayout:
    """1 GiB of experts in 8 layers of 16 experts, 200 MiB dense."""
    matrices = tuple(ExpertMatrix(layer, 0, layer * 128 * MIB, 8 * MIB, 16) for layer in range(8))
    return ExpertLayout((Path("m.gguf"),), matrices, (Stretch(0, 1024 * MIB, 1224 * MIB),))


def here(free: int, other: int = 24, can: bool = True) -> MachineRoom:
    return MachineRoom(free * MIB, other * MIB, mmap.PAGESIZE, can)


def test_a_model_that_fits_is_loaded_whole(layout: ExpertLayout) -> None:
    assert expert_budget(layout, ExpertWish(), here(2000)) == 0
    assert expert_budget(layout, ExpertWish("off"), here(700)) == 0
    assert expert_budget(None, ExpertWish(), here(700)) == 0
    assert expert_budget(layout, ExpertWish(), here(700, can=False)) == 0


def test_experts_get_what_dense_weights_and_the_cache_leave(layout: ExpertLayout) -> None:
    free = 700 * MIB
    assert expert_budget(layout, ExpertWish(), here(700)) == free - 200 * MIB - 24 * MIB - spare(free)
    assert expert_budget(layout, ExpertWish(memory=300 * MIB), here(700)) == 300 * MIB
    assert expert_budget(layout, ExpertWish(memory=900 * MIB), here(700)) < 476 * MIB, "no more than there is"
    assert expert_budget(layout, ExpertWish("on"), here(9000)) == 1024 * MIB, "all of them, and they are counted"
    assert expert_budget(layout, ExpertWish(memory=300 * MIB), here(9000)) == 300 * MIB, "who names a size wants it"


def test_too_little_memory_is_refused_with_numbers(layout: ExpertLayout) -> None:
    with pytest.raises(TwdError, match=r"needs 416 MiB: 200 MiB dense weights, 24 MiB KV cache, 128 MiB .*390 MiB are"):
        expert_budget(layout, ExpertWish(), here(390))
    with pytest.raises(TwdError, match="moe_memory_gb grants 64 MiB for experts, which is below one layer's") as caught:
        expert_budget(layout, ExpertWish(memory=64 * MIB), here(9000))
    assert caught.value.code is FailureCode.OUT_OF_MEMORY


def test_what_cannot_be_streamed_is_refused_if_it_is_asked_for(layout: ExpertLayout) -> None:
    with pytest.raises(TwdError, match="this model has no fused experts"):
        expert_budget(None, ExpertWish("on"), here(9000))
    with pytest.raises(TwdError, match="this build of llama"):
        expert_budget(layout, ExpertWish("on"), here(9000, can=False))


@pytest.mark.parametrize(
    ("budget", "held", "free", "wanted"),
    [
        (500, 500, 50, 500),
        (500, 500, 20, 470),
        (500, 500, 0, 450),
        (500, 200, 310, 460),
        (120, 120, 5, 100),
        (400, 400, 130, 430),
        (400, 400, 900, 500),
    ],
    ids=["as planned", "tight", "none", "not filled yet", "never below the least", "some again", "all again"],
)
def test_experts_give_back_what_others_need(budget: int, held: int, free: int, wanted: int) -> None:
    assert adapted_budget(budget, held, free, (100, 500), 50) == wanted


def test_maps_tell_where_a_file_lies() -> None:
    text = (
        "7f0000000000-7f0000004000 r--s 00002000 08:01 7 /models/a b.gguf\n"
        "7f0000008000-7f0000009000 r--s 00000000 08:01 8 /models/other.gguf\n"
        "7ffc0000-7ffd0000 rw-p 00000000 00:00 0 [stack]\n7f01-7f02 rw-p 00000000 00:00 0\n"
    )
    (found,) = parse_maps(text, {"/models/a b.gguf": 1})
    assert found == Fragment(1, 0x7F0000000000, 0x7F0000004000, 0x2000)
    assert found.address(0x2010) == 0x7F0000000010
    assert found.holds(0x2000)
    assert not found.holds(0x6000)
