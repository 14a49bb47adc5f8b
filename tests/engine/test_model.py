"""Loading: progress, facts, and a typed refusal for every file that cannot be a model."""

import logging
from pathlib import Path

import pytest

from twd.engine import library
from twd.engine import model as model_module
from twd.engine.context import Context, ContextSettings
from twd.engine.host_memory import limits as memory
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.gguf_tools.inspect import inspect
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError


def refuse(path: Path) -> TwdError:
    with pytest.raises(TwdError) as caught:
        LoadedGguf.load(ModelLoadOptions(path))
    return caught.value


def test_progress_ends_at_one_and_facts_tell_what_it_is(tiny_path: Path) -> None:
    seen: list[float] = []
    with LoadedGguf.load(ModelLoadOptions(tiny_path), seen.append) as model:
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
        facts = model.facts(ModelId("tiny"), ctx_size=128, parallel=2)
        assert (facts.architecture, facts.quantization, facts.file) == ("llama", "F32", "tiny-llama.gguf")
        assert (model.n_layer, model.n_embd, model.ctx_train) == (2, 128, 4096)
        assert facts.parameters == model.info.parameters > 0
        model.close()


def test_an_error_in_the_progress_listener_reaches_the_caller(tiny_path: Path) -> None:
    def broken(_: float) -> None:
        raise ValueError("the listener is broken")

    with pytest.raises(ValueError, match="the listener is broken"):
        LoadedGguf.load(ModelLoadOptions(tiny_path), broken)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in str(refuse(tmp_path / "none.gguf"))
    assert "folder" in str(refuse(tmp_path))


@pytest.mark.parametrize("content", [b"", b"GG", b"<html>not found</html>", b"GGUF\xff\xff\xff\xff" + bytes(64)])
def test_files_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    error = refuse(path)
    assert error.code is FailureCode.MODEL_LOAD
    assert str(path) in str(error)


def test_a_truncated_model_says_how_much_is_missing(tmp_path: Path, tiny_path: Path) -> None:
    whole = tiny_path.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:-5000])
    assert f"5000 of {len(whole)} bytes missing" in str(refuse(path))


def test_a_model_that_llama_cpp_refuses_says_why(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(tiny_path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    error = refuse(path)
    assert error.code is FailureCode.MODEL_LOAD
    assert "blk.1.ffn_up.weight" in str(error)


def test_an_unknown_architecture_says_so(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    path.write_bytes(tiny_path.read_bytes().replace(b"llama", b"lhama"))
    assert "lhama" in str(refuse(path))


def test_a_model_too_big_for_memory_is_refused_before_loading(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    error = refuse(tiny_path)
    assert error.code is FailureCode.OUT_OF_MEMORY
    assert "tiny-llama.gguf" in str(error)


def test_layers_meant_for_a_device_that_is_not_there_count_as_memory(
    tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, needed = tiny.settings.path, tiny.info.weight_bytes
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    cpu, gpu = (library.EngineDevice(kind, kind, kind, 1, 1, 0) for kind in ("cpu", "gpu"))
    monkeypatch.setattr(model_module, "devices", lambda: [cpu])
    with pytest.raises(TwdError) as caught:
        LoadedGguf.load(ModelLoadOptions(path, gpu_layers=-1))
    assert caught.value.code is FailureCode.OUT_OF_MEMORY
    monkeypatch.setattr(model_module, "devices", lambda: [cpu, gpu])
    LoadedGguf.load(ModelLoadOptions(path, gpu_layers=-1)).close()


def test_what_llama_cpp_logs_decides_the_kind_of_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for logged, code in (("cudaMalloc failed: out of memory", FailureCode.OUT_OF_MEMORY), ("", FailureCode.MODEL_LOAD)):
        monkeypatch.setattr(model_module, "last_errors", lambda logged=logged: logged)
        assert model_module.load_error("cannot").code is code


def test_a_context_too_big_for_memory_is_refused_before_it_is_made(
    tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    with pytest.raises(TwdError) as caught:
        Context(tiny, ContextSettings(ctx_size=1 << 20, parallel=4))
    assert caught.value.code is FailureCode.OUT_OF_MEMORY


def test_an_unknown_cache_type_is_refused(tiny: LoadedGguf) -> None:
    with pytest.raises(TwdError, match="unknown KV cache type"):
        Context(tiny, ContextSettings(type_v="q9_9"))


def test_memory_of_this_machine_is_known() -> None:
    assert memory.available_bytes() > 1 << 20
    memory.require_memory(1, "one byte")


def test_there_is_a_cpu() -> None:
    kinds = {device.kind for device in library.devices()}
    assert "cpu" in kinds
    assert all(device.total_bytes >= device.free_bytes >= 0 for device in library.devices())


def test_messages_of_llama_cpp_are_joined_to_lines(caplog: pytest.LogCaptureFixture) -> None:
    library.last_errors()
    line = library._LogLine()
    with caplog.at_level(logging.DEBUG, logger="twd.engine.llama"):
        line.add(2, "load")
        line.add(5, "ing\nnext ")
        line.add(4, "went wrong\n")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.DEBUG, "loading"),
        (logging.WARNING, "next went wrong"),
    ]
    assert library.last_errors() == "next went wrong"
    assert library.last_errors() == ""


def test_a_build_without_rpc_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "supports_rpc", lambda: False)
    with pytest.raises(TwdError, match="GGML_RPC=ON"):
        library.require_rpc()


def test_a_function_that_ggml_lacks_is_a_typed_failure() -> None:
    with pytest.raises(TwdError) as caught:
        library.ggml("ggml_no_such_function", [], None)
    assert caught.value.code is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("amx", [False, True])
def test_weights_are_not_repacked_for_kernels_that_may_crash(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, amx: bool
) -> None:
    monkeypatch.setattr(model_module, "has_amx", lambda: amx)
    monkeypatch.setattr(model_module, "need_no_repacking", lambda tensors: False)
    parameters, _ = model_module._parameters(ModelLoadOptions(tiny_path), inspect(tiny_path))
    assert parameters.use_extra_bufts is not amx
