"""How llama.cpp is built: options by backend, and what keeps a machine from building."""

import platform
from pathlib import Path

import pytest

from twd.setup.engine import recipe


@pytest.mark.parametrize("backend", recipe.BACKENDS)
def test_a_backend_is_known_by_its_options(backend: str) -> None:
    own = recipe.cmake_of(backend, platform.machine())
    assert recipe.backend_named_by(own) == backend
    assert recipe.backend_named_by([option.upper() for option in own]) == backend


def test_options_of_somebodys_own_are_told_apart() -> None:
    assert recipe.backend_named_by(["-DGGML_BLAS=ON"]) == "own"


def test_every_build_has_our_kernels_and_rpc_and_names_its_processor() -> None:
    cmake = recipe.llama_cmake({"avx2"}, Path("/k"), ("-DGGML_CUDA=on",))
    assert cmake[:2] == ["-DGGML_RPC=ON", "-DLLAVA_BUILD=OFF"]
    assert "-DCMAKE_PROJECT_ggml_INCLUDE=/k/kernels.cmake" in cmake
    assert cmake[-1] == "-DGGML_CUDA=on"
    assert cmake != recipe.llama_cmake({"avx512f"}, Path("/k"), ("-DGGML_CUDA=on",))


def test_kernels_that_crash_are_left_out() -> None:
    assert set(recipe.NO_AMX) < set(recipe.llama_cmake({"amx_int8"}, Path("/k"), ()))


def test_our_kernels_are_at_hand_and_placed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "CACHE", tmp_path)
    folder = recipe.place_kernels()
    assert (folder / "kernels.cmake").is_file()
    assert recipe.place_kernels() == folder
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_what_compiles_it_is_pinned() -> None:
    assert {line.split("==")[0] for line in recipe.build_versions()} >= {"cmake", "ninja", "scikit-build-core"}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"g++"}
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert recipe.obstacle("native", ()) == ""
    assert "CUDA toolkit" in recipe.obstacle("cuda", ())
    assert "lacks avx2, f16c, fma" in recipe.obstacle("portable", {"sse2"})
    assert recipe.obstacle("portable", {"avx2", "fma", "f16c"}) == ""
    there.clear()
    assert "--from" in recipe.obstacle("native", ())
