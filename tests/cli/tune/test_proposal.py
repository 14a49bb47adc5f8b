"""Proposals for a machine and a model: what fits, what does not, and what would help."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gguf_tools.test_inspect import write
from twd.cli.tune.proposal import GIB, MachineFacts, ModelNeed, TuneProposal, expected_token_s, proposals
from twd.gguf_tools.inspect import GgufInfo, inspect
from twd.settings.model import ModelConfig

ROOMY = MachineFacts(cores=8, threads=16, total=64 * GIB, available=60 * GIB, swap_total=8 * GIB, swap_free=8 * GIB)


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> GgufInfo:
    """A model of 8 GiB, with 8192 tokens of context of 64 KiB each."""
    small = inspect(write(tmp_path_factory.mktemp("tune") / "m.gguf"))
    shape = {
        "layers": 32,
        "kv_layers": 32,
        "kv_heads": 4,
        "key_length": 128,
        "value_length": 128,
        "context_length": 8192,
    }
    weights = {"layer_bytes": [GIB // 4] * 32, "other_bytes": 0, "size_bytes": 8 * GIB}
    return replace(small, **shape, **weights)  # type: ignore[arg-type]


def keys(found: list[TuneProposal]) -> dict[str, str]:
    return {one.key: one.value for one in found if one.key}


def test_what_fits_is_left_alone(info: GgufInfo) -> None:
    assert proposals(ROOMY, ModelNeed("m", info, ModelConfig(path="m.gguf"))) == []


def test_caches_that_do_not_fit_are_made_smaller_before_there_are_fewer(info: GgufInfo) -> None:
    need = ModelNeed("m", info, ModelConfig(path="m.gguf", parallel=8))
    close = proposals(replace(ROOMY, available=12 * GIB), need)
    assert keys(close) == {"models.m.cache_type_k": "q8_0", "models.m.cache_type_v": "q8_0"}
    tight = proposals(replace(ROOMY, available=10 * GIB), need)
    assert keys(tight) == {"models.m.parallel": "2"}
    assert all(one.urgent for one in tight)


def test_hardly_any_room_means_shorter_sessions(info: GgufInfo) -> None:
    machine = replace(ROOMY, available=int(8.95 * GIB))
    found = keys(proposals(machine, ModelNeed("m", info, ModelConfig(path="m.gguf"))))
    assert found["models.m.parallel"] == "1"
    assert 2048 <= int(found["models.m.ctx_size"]) < 8192


def test_weights_that_do_not_fit(info: GgufInfo) -> None:
    machine = replace(ROOMY, available=4 * GIB, swap_total=0, swap_free=0)
    found = proposals(machine, ModelNeed("m", info, ModelConfig(path="m.gguf")))
    assert any(one.urgent and one.command == "twd plan m" for one in found)
    assert any("fallocate -l 32G" in one.command for one in found)


def test_threads_are_proposed_only_when_measured_to_help(info: GgufInfo) -> None:
    need = ModelNeed("m", info, ModelConfig(path="m.gguf"))
    assert keys(proposals(replace(ROOMY, token_ms={4: 50.0, 8: 51.0}), need)) == {}
    assert keys(proposals(replace(ROOMY, token_ms={4: 40.0, 8: 51.0}), need)) == {"models.m.threads": "4"}
    on_gpu = replace(ROOMY, token_ms={4: 40.0, 8: 51.0}, device_bytes=24 * GIB)
    assert keys(proposals(on_gpu, need)) == {}


def test_reclaiming_is_proposed_where_it_was_turned_off(info: GgufInfo) -> None:
    machine = replace(ROOMY, available=14 * GIB)
    need = ModelNeed("m", info, ModelConfig(path="m.gguf", parallel=1), ram_reclaim="off")
    assert keys(proposals(machine, need)) == {"ram_reclaim": "auto"}
    assert proposals(machine, replace(need, ram_reclaim="auto")) == []


def test_a_context_beyond_the_model_is_pulled_back(info: GgufInfo) -> None:
    need = ModelNeed("m", info, ModelConfig(path="m.gguf", ctx_size=32_768))
    assert keys(proposals(ROOMY, need)) == {"models.m.ctx_size": "8192"}


def test_swapping_out_early_is_spoken_of(info: GgufInfo) -> None:
    eager = replace(ROOMY, swappiness=80)
    assert [one.command for one in proposals(eager, None)] == ["sudo sysctl vm.swappiness=10"]
    assert proposals(replace(eager, swap_total=0), None)[0].command == "twd tune MODEL"
    assert expected_token_s(replace(ROOMY, bandwidth=16 * GIB), ModelNeed("m", info, ModelConfig(path="m"))) == 2.0


@given(st.integers(0, 80 * GIB), st.integers(1, 64), st.integers(0, 32_768))
def test_what_is_proposed_fits(info: GgufInfo, available: int, parallel: int, ctx_size: int) -> None:
    machine = replace(ROOMY, available=available)
    need = ModelNeed("m", info, ModelConfig(path="m.gguf", parallel=parallel, ctx_size=ctx_size))
    found = keys(proposals(machine, need))
    sessions = int(found.get("models.m.parallel", parallel))
    tokens = min(int(found.get("models.m.ctx_size", need.ctx_size)), 8192)
    kinds = ("q8_0", "q8_0") if "models.m.cache_type_k" in found else None
    if found and available > 10 * GIB:
        assert info.weight_bytes + need.kv_bytes(tokens, sessions, kinds) <= available
