"""Profiles: what they count, how they fade and add up, and what is refused."""

import json
import struct
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.moe.mixtures import write_random
from twd.moe.profile import (
    HALF_LIFE_S,
    TRACE_MAX,
    ExpertCounter,
    ExpertProfile,
    fade,
    merged,
    overlap,
    pinned_share,
    recent_share,
    skew,
)
from twd.moe.profile_files import BrokenProfile, read_profile, require_profile_of, write_profile
from twd.wire.failures import TwdError

HITS = {0: {0: 6.0, 1: 2.0}, 1: {3: 8.0}}


def test_a_counter_counts_choices_and_their_order() -> None:
    counter = ExpertCounter()
    for chosen in ([0, 1], [1, 2], [5, 6]):
        counter.add(0, chosen)
    told = counter.profile()
    assert told.hits == {0: {0: 1, 1: 2, 2: 1, 5: 1, 6: 1}}
    assert told.tokens == 3
    assert overlap(told) == 1 / 4
    assert told.trace == [(0, [0, 1]), (0, [1, 2]), (0, [5, 6])]


def test_the_trace_is_bounded() -> None:
    counter = ExpertCounter()
    for number in range(TRACE_MAX + 10):
        counter.add(0, [number % 7])
    assert len(counter.profile().trace) == TRACE_MAX


def test_old_hits_fade_and_workers_add_up() -> None:
    old = ExpertProfile(model="m", hits=HITS, updated_at=1000.0, tokens=8)
    new = ExpertProfile(model="m", hits={0: {0: 1.0}}, updated_at=1000.0 + HALF_LIFE_S)
    whole = merged([new, old], 1000.0 + HALF_LIFE_S)
    assert whole.hits == {0: {0: 4.0, 1: 1.0}, 1: {3: 4.0}}
    assert whole.tokens == 4
    assert fade(old, 1000.0 + 60 * HALF_LIFE_S).hits == {}


def test_profiles_of_different_models_are_kept_apart() -> None:
    one, other = ExpertProfile(model="a" * 32, name="a"), ExpertProfile(model="b" * 32, name="b")
    with pytest.raises(TwdError, match=r"different models: a \(aaaaaaaa\), b"):
        merged([one, other], 0.0)


def test_skew_and_the_share_that_memory_holds() -> None:
    profile = ExpertProfile(hits=HITS)
    assert skew({0: 9.0, 1: 1.0}, 10) == 0.9
    assert [pinned_share(profile, kept) for kept in (0, 1, 2, 3)] == [0, 8 / 16, 14 / 16, 1]
    trace = [(0, [1]), (0, [2]), (0, [1]), (0, [3]), (0, [2])]
    assert recent_share(trace, 2) == 1 / 5
    assert recent_share(trace, 3) == 2 / 5
    assert recent_share(trace, 0) == 0
    assert recent_share([], 3) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))))
def test_more_room_never_serves_less(trace: list[tuple[int, list[int]]]) -> None:
    shares = [recent_share(trace, kept) or 0.0 for kept in range(20)]
    assert shares == sorted(shares)


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    whole = ExpertProfile(model="m", name="n", experts=4, updated_at=3.0, hits=HITS, trace=[(0, [1, 2])], tokens=2)
    write_profile(tmp_path / "deep" / "p.json", whole)
    assert read_profile(tmp_path / "deep" / "p.json") == whole


def test_logs_tables_and_answers_are_read(tmp_path: Path) -> None:
    texts = {
        "a.log": "noise\nx moe: layer=0 chosen=[1,2]\nmoe: layer=0 chosen=[1, 3]\nmoe: layer=1 chosen=[7]\n",
        "b.csv": "layer,expert,count\n0,1,2\n0,2,1\n0,3,1\n1,7,1\n",
        "c.json": json.dumps(
            {
                "port": 1,
                "total_tokens": 2,
                "top_experts": [
                    {"layer": layer, "expert": expert, "hits": hits}
                    for layer, expert, hits in ((0, 1, 2), (0, 2, 1), (0, 3, 1), (1, 7, 1))
                ],
            }
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_profile(tmp_path / name).hits == {0: {1: 2, 2: 1, 3: 1}, 1: {7: 1}}, name


def test_the_counts_of_an_imatrix_file_are_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "i.gguf", "x")
    writer.add_type("imatrix")
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"):
        writer.add_tensor(f"{name}.in_sum2", np.zeros((4, 8), np.float32))
        writer.add_tensor(f"{name}.counts", np.array([[5], [0], [1], [2]], np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.array([[9]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_profile(tmp_path / "i.gguf").hits == {0: {0: 5, 1: 0, 2: 1, 3: 2}}


def legacy(*entries: tuple[str, int]) -> bytes:
    data = struct.pack("<i", len(entries))
    for name, calls in entries:
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii2f", calls, 2, 0.5, 0.5)
    return data


def test_an_old_imatrix_tells_of_single_experts_only(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(legacy(("blk.0.ffn_gate.0.weight", 3), ("blk.0.ffn_gate.1.weight", 5), ("output.weight", 9)))
    assert read_profile(path).hits == {0: {0: 3, 1: 5}}
    path.write_bytes(legacy(("blk.0.ffn_gate_exps.weight", 3)))
    with pytest.raises(BrokenProfile, match="does not tell which experts"):
        read_profile(path)
    path.write_bytes(legacy(("blk.0.ffn_gate.0.weight", 3))[:-3])
    with pytest.raises(BrokenProfile, match="cut short"):
        read_profile(path)


WRONG = {
    "cut off": ('{"model":"m","hits":{"0":{"1":', "only the beginning"),
    "negative": ('{"hits":{"0":{"1":-5}}}', "the count -5"),
    "endless": ('{"hits":{"0":{"1":1e300}}}', "which cannot be"),
    "no such expert": ('{"hits":{"0":{"99999":5}}}', "expert 99999 of layer 0"),
    "a negative expert": ("moe: layer=0 chosen=[-3]\n", "expert -3"),
    "a negative count": ("0,1,-7\n", "the count -7"),
    "no number": ("0,1,many\n", "line 1: 'many' is no count"),
    "not a number": ("0,1,nan\n", "the count nan"),
    "no experts": ("hello\n", "tells of no expert"),
    "nothing": ("", "tells of no expert"),
    "another kind": ("[1,2]", "tells of no expert"),
    "a layer that no model has": ("99999,1,1\n", "of layer 99999"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_profile_that_cannot_be_true_is_refused(wrong: str, tmp_path: Path) -> None:
    text, words = WRONG[wrong]
    (tmp_path / "p").write_text(text)
    with pytest.raises(BrokenProfile, match=words):
        read_profile(tmp_path / "p")


def test_a_huge_profile_and_a_model_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 30)
    with pytest.raises(BrokenProfile, match="is 1024 MiB"):
        read_profile(tmp_path / "huge.json")
    with pytest.raises(BrokenProfile, match="is a model, not a profile"):
        read_profile(write_random(tmp_path / "m.gguf"))
    with pytest.raises(BrokenProfile, match="cannot be read"):
        read_profile(tmp_path / "none")


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    mine = ExpertProfile(model="a" * 32, name="A", hits=HITS)
    require_profile_of(mine, tmp_path, model="a" * 32, layers=2, experts=4)
    with pytest.raises(BrokenProfile, match=r"is a profile of A \(aaaaaaaa\), not of this file"):
        require_profile_of(mine, tmp_path, model="b" * 32, layers=2, experts=4)
    with pytest.raises(BrokenProfile, match="this model has 2 layers of 3 experts"):
        require_profile_of(msgspec.structs.replace(mine, model=""), tmp_path, model="b", layers=2, experts=3)
