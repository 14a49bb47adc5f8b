"""An engine is built and put in place; one that does not work is taken back."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from twd.kit.errors import CommandError
from twd.setup.engine import builder as module
from twd.setup.engine import recipe
from twd.setup.engine.builder import EngineBuilder, recorded_backend

VERSION = "0.3.36"
WHEEL = f"llama_cpp_python-{VERSION}-py3-none-any.whl"


class Environment:
    """A Python environment in a folder, with programs that pretend to build and install."""

    def __init__(self, folder: Path) -> None:
        self.packages = folder / "packages"
        (self.packages / "llama_cpp").mkdir(parents=True)
        (self.packages / "llama_cpp/lib").write_text("old")
        (self.packages / f"llama_cpp_python-{VERSION}.dist-info").mkdir()
        self.folder = folder
        self.calls: list[Sequence[str]] = []
        self.cmake = ""
        self.fails = ""
        self.builder = EngineBuilder(VERSION, self.run, folder, self.packages, "python")

    def run(self, argv: Sequence[str], environment: Mapping[str, str]) -> int:
        self.calls.append(argv)
        if self.fails and self.fails in argv:
            return 1
        if "wheel" in argv:
            self.cmake = environment["CMAKE_ARGS"]
            (Path(argv[argv.index("--wheel-dir") + 1]) / WHEEL).touch()
        if "install" in argv:
            (self.packages / "llama_cpp").mkdir()
            (self.packages / "llama_cpp/lib").write_text("new")
        return 0

    @property
    def engine(self) -> str:
        return (self.packages / "llama_cpp/lib").read_text()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(recipe, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module, "ask_engine", lambda python: {"rpc": True, "cards": 0, "kernels": True})
    return Environment(tmp_path)


def test_a_new_engine_takes_the_place_of_the_old_one(environment: Environment) -> None:
    found = environment.builder.install("vulkan", None)
    assert environment.engine == "new"
    assert "-DGGML_VULKAN=on" in environment.cmake
    assert found["kernels"]
    assert recorded_backend(environment.folder) == "vulkan"
    assert [part.name for part in environment.packages.iterdir()] == ["llama_cpp"]


@pytest.mark.parametrize("fails", ["wheel", "install"])
def test_where_a_step_fails_the_old_engine_is_there(environment: Environment, fails: str) -> None:
    environment.fails = fails
    with pytest.raises(CommandError):
        environment.builder.install("native", None)
    assert environment.engine == "old"
    assert recorded_backend(environment.folder) == ""


def test_an_engine_that_crashes_is_taken_back(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ask_engine", lambda python: {"problem": "Illegal instruction"})
    with pytest.raises(CommandError, match=r"Illegal instruction.*the old one is back"):
        environment.builder.install("portable", None)
    assert environment.engine == "old"
    assert (environment.packages / f"llama_cpp_python-{VERSION}.dist-info").is_dir()


def test_a_built_one_is_taken_as_it_is(environment: Environment, tmp_path: Path) -> None:
    source = tmp_path / "wheels"
    source.mkdir()
    (source / WHEEL).touch()
    environment.builder.install("portable", source)
    assert environment.engine == "new"
    assert not any("wheel" in call for call in environment.calls)


def test_from_a_folder_no_network_is_used(environment: Environment, tmp_path: Path) -> None:
    environment.builder.install("native", tmp_path)
    assert "--no-index" in environment.calls[0]


def test_a_card_that_is_not_found_is_told(environment: Environment) -> None:
    assert "finds no card" in environment.builder.install("cuda", None)["note"]
