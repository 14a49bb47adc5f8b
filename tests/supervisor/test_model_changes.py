"""What a name means, what a change does to the settings, and whether two models fit beside each other."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.settings.model import BackendConfig, DrafterConfig, ModelConfig, Settings
from twd.supervisor.model_changes import (
    MemoryRoom,
    ReplacementOrder,
    ServedModels,
    find_model,
    manner_of,
    serving,
    with_default,
    with_file,
    with_head,
)
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import ModelFile

SETTINGS = Settings(
    models={"small": ModelConfig(path="/m/small.gguf"), "qwen/big": ModelConfig(path="/m/big.gguf", default=True)},
    backends={"cloud": BackendConfig(url="http://127.0.0.1:8000")},
)
FILES = [
    ModelFile(name="Llama-8B", path="/m/Llama-8B.gguf", size_bytes=5),
    ModelFile(name="twice", path="/a/twice.gguf", size_bytes=5),
    ModelFile(name="twice", path="/b/twice.gguf", size_bytes=5),
    ModelFile(name="broken", path="/m/broken.gguf", size_bytes=0, problem="the file is cut short"),
]


@pytest.mark.parametrize("name", ["small", "qwen/big", "cloud"])
def test_a_configured_name_means_itself(name: str) -> None:
    assert find_model(SETTINGS, FILES, name) == (SETTINGS, name)


def test_a_file_gets_a_name_of_its_own() -> None:
    settings, name = find_model(SETTINGS, [], "/elsewhere/small.gguf")
    assert name == "small-2"
    assert settings.models[name].path == "/elsewhere/small.gguf"
    assert list(settings.models) == ["small", "qwen/big", "small-2"]
    again, same = find_model(settings, [], "/elsewhere/small.gguf")
    assert (again, same) == (settings, "small-2")


def test_the_file_of_a_configured_model_is_that_model() -> None:
    assert find_model(SETTINGS, [], "/m/big.gguf") == (SETTINGS, "qwen/big")


def test_a_model_in_parts_is_called_by_what_they_share() -> None:
    assert with_file(SETTINGS, "/m/giant-00001-of-00009.gguf")[1] == "giant"
    assert with_file(SETTINGS, r"C:\models\Tiny.gguf")[1] == "Tiny"


@pytest.mark.parametrize("name", ["Llama-8B", "llama-8b"])
def test_a_file_that_the_agent_found_is_known_by_its_name(name: str) -> None:
    settings, found = find_model(SETTINGS, FILES, name)
    assert settings.models[found].path == "/m/Llama-8B.gguf"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nothing", FailureCode.MODEL_NOT_FOUND, "configured are small, qwen/big, cloud"),
        ("twice", FailureCode.BAD_REQUEST, "/a/twice.gguf, /b/twice.gguf"),
        ("broken", FailureCode.MODEL_LOAD, "cut short"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, code: FailureCode, words: str) -> None:
    with pytest.raises(TwdError, match=words) as refused:
        find_model(SETTINGS, FILES, name)
    assert refused.value.code is code


def test_what_is_served_at_the_start_follows_the_settings() -> None:
    assert serving(SETTINGS, ["cloud", "small"]).wanted == ("small", "cloud")
    assert serving(SETTINGS, SETTINGS.served()).default == "qwen/big"
    assert serving(SETTINGS, ["small"]).default == "small"
    assert serving(SETTINGS, []) == ServedModels(SETTINGS, (), "")


def test_the_default_follows() -> None:
    both = serving(SETTINGS, ["small", "qwen/big"])
    assert both.with_model("cloud").default == "qwen/big"
    swapped = both.with_model("cloud", "cloud").without(["qwen/big"])
    assert (swapped.wanted, swapped.default) == (("small", "cloud"), "cloud")
    assert swapped.settings.default_model == "cloud"
    assert both.without(["qwen/big"]).default == "small"
    assert both.without(["small", "qwen/big"]).default == ""
    assert both.without(["small", "qwen/big"]).with_model("small").default == "small"


def test_exactly_one_model_is_the_default() -> None:
    marked = [name for name, entry in with_default(SETTINGS, "small").served().items() if entry.default]
    assert marked == ["small"]


def test_two_models_that_fit_are_held_at_once() -> None:
    assert manner_of(MemoryRoom(needed=90, free=100)) is ReplacementOrder.BESIDE
    assert manner_of(MemoryRoom(needed=99, free=100, freed=50)) is ReplacementOrder.AFTER
    assert manner_of(MemoryRoom(needed=150, free=100, freed=50)) is ReplacementOrder.AFTER


def test_one_that_fits_nowhere_is_refused_with_figures() -> None:
    with pytest.raises(TwdError, match=r"2\.00 GiB too little") as refused:
        manner_of(MemoryRoom(needed=5 << 30, free=2 << 30, freed=1 << 30))
    assert refused.value.code is FailureCode.OUT_OF_MEMORY
    assert manner_of(MemoryRoom(needed=5 << 30, free=2 << 30, certain=False)) is ReplacementOrder.AFTER


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_memory_is_never_overdrawn(needed: int, free: int, freed: int) -> None:
    try:
        manner = manner_of(MemoryRoom(needed, free, freed))
    except TwdError:
        assert needed > free + freed
    else:
        assert needed <= (free if manner is ReplacementOrder.BESIDE else free + freed)


def test_the_coordinator_learns_which_models_to_plan_for() -> None:
    both = serving(SETTINGS, ["small", "qwen/big"])
    served = {name: model.serve for name, model in both.without(["small"]).settings.models.items()}
    assert served == {"small": False, "qwen/big": True}
    resting = Settings(models={"a": ModelConfig(path="a", serve=False), "b": ModelConfig(path="b")})
    assert resting.default_model == "b"


def test_a_head_takes_the_place_of_another_for_the_same_model() -> None:
    small = DrafterConfig(path="/m/draft.gguf")
    one = with_head(msgspec.structs.replace(SETTINGS, drafters=(small,)), "/m/one.gguf", "small")
    two = with_head(with_head(one, "/m/two.gguf", "small"), "/m/three.gguf", "qwen/big")
    assert [(drafter.head or drafter.path, drafter.for_model) for drafter in two.drafters] == [
        ("/m/three.gguf", "qwen/big"),
        ("/m/two.gguf", "small"),
        ("/m/draft.gguf", ""),
    ]
    assert [drafter.head for drafter in with_head(two, "/m/all.gguf").drafters] == ["/m/all.gguf", ""]
