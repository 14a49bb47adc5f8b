"""Where a served mixture goes on a machine with a card, as its settings ask."""

from pathlib import Path

import pytest

from tests.engine.experts.unlike import write_unlike
from twd.engine.library import EngineDevice
from twd.engine.tensor_places import DevicePlacement
from twd.gguf_tools.model_file import file_hash
from twd.moe.model import read_mixture
from twd.moe.placement import USABLE, DeviceScore
from twd.moe.profile import ExpertProfile
from twd.moe.profile_files import BrokenProfile, kept_profile, write_profile
from twd.moe.summary import summarize
from twd.process.home import StateFolder
from twd.settings.model import ModelConfig
from twd.speculator.targets import mixture_placement
from twd.speculator.targets.mixture_placement import advised, place_mixture
from twd.wire.failures import FailureCode, TwdError

CARD = EngineDevice("CUDA0", "a card", "gpu", 0, 0, 0)
LAYERS, EXPERTS = 8, 16
PLENTY = 1 << 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unlike(tmp_path_factory.mktemp("unlike") / "unlike.gguf", layers=LAYERS, experts=EXPERTS)


class Machine:
    """This machine, as if it had a card with room for a part of the experts."""

    def __init__(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.home = path, StateFolder(tmp_path)
        self.facts = summarize(read_mixture(path))
        self.cards, self.experts_on_card, self.memory = [CARD], 0.5, PLENTY
        monkeypatch.setattr(mixture_placement, "devices", lambda: self.cards)
        monkeypatch.setattr(mixture_placement, "find_devices", lambda *_: self.devices())
        monkeypatch.setattr("twd.moe.on_devices.buffer_name", lambda card: card.name)

    def devices(self) -> list[DeviceScore]:
        whole = self.facts.resident + (2 << 20)  # with the KV cache
        on_card = int((whole + self.experts_on_card * self.facts.expert) / USABLE)
        return [DeviceScore("CUDA0", on_card, 500e9, 20e-6), DeviceScore("CPU", self.memory, 10e9, disk=1e9)]

    def placed(self, placement: str = "balanced", **fields: object) -> DevicePlacement | None:
        told = {"path": str(self.path), "ctx_size": 64, "parallel": 1, "moe_placement": placement} | fields
        return place_mixture(ModelConfig(**told), self.home)  # type: ignore[arg-type]

    def on_host(self, placement: str = "balanced", **fields: object) -> list[int]:
        found = self.placed(placement, **fields)
        assert found is not None
        assert (found.layers, found.devices) == (LAYERS + 1, (CARD,)), "dense weights lie on the card"
        if not found.places:
            return []
        (place,) = found.places
        assert place.device is None
        return [int(number) for number in place.pattern.decode().split("(")[1].split(")")[0].split("|")]


@pytest.fixture
def machine(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(path, tmp_path, monkeypatch)


def test_experts_fill_the_card_and_the_rest_stays_in_memory(machine: Machine) -> None:
    assert 0 < len(machine.on_host()) < LAYERS
    machine.experts_on_card = 1.0
    assert machine.on_host() == []


def test_without_the_setting_or_a_card_or_experts_nothing_is_placed(machine: Machine, tiny_path: Path) -> None:
    assert machine.placed("off") is None
    assert machine.placed(path=str(tiny_path)) is None
    machine.cards = []
    assert machine.placed() is None


def test_what_fits_nowhere_is_refused_with_numbers(machine: Machine) -> None:
    machine.experts_on_card, machine.memory = 0.2, machine.facts.expert // 4
    with pytest.raises(TwdError, match=r"fit neither on a card nor in memory .* gpu_layers to 0") as caught:
        machine.placed()
    assert caught.value.code is FailureCode.OUT_OF_MEMORY


def test_who_finds_a_card_too_small_hears_of_the_setting(machine: Machine, tiny_path: Path) -> None:
    full = TwdError(FailureCode.OUT_OF_MEMORY, "the card is full")
    mixture = ModelConfig(path=str(machine.path))
    assert "moe_placement: balanced" in str(advised(full, mixture))
    assert advised(full, mixture).code is FailureCode.OUT_OF_MEMORY
    broken = TwdError(FailureCode.MODEL_LOAD, "it is cut short")
    assert advised(broken, mixture) is broken
    assert advised(full, ModelConfig(path=str(tiny_path))) is full
    assert advised(full, ModelConfig(path=str(machine.path), moe_placement="balanced")) is full
    machine.cards = []
    assert advised(full, mixture) is full


def test_busy_layers_come_first_as_the_kept_profile_tells(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    plain = machine.on_host()
    assert machine.on_host("profile-guided") == plain
    assert "no profile of unlike.gguf is kept" in caplog.text
    busy = {layer: dict.fromkeys(range(EXPERTS), 1000.0 if layer in plain else 1.0) for layer in range(LAYERS)}
    profile = ExpertProfile(model=file_hash(machine.path), experts=EXPERTS, tokens=1000.0, hits=busy)
    write_profile(kept_profile(machine.home.path, machine.path), profile)
    guided = machine.on_host("profile-guided")
    assert guided
    assert set(guided) != set(plain), "the busiest layers moved to the card"


def test_a_named_profile_must_be_of_this_model(machine: Machine, tmp_path: Path) -> None:
    other = ExpertProfile(model="0" * 32, experts=EXPERTS, tokens=1.0, hits={0: {0: 1.0}})
    write_profile(tmp_path / "other.json", other)
    with pytest.raises(BrokenProfile, match="not of this file"):
        machine.placed("profile-guided", moe_hot_profile=str(tmp_path / "other.json"))
