"""Which processes follow from which settings."""

from pathlib import Path
from typing import Any, cast

import pytest

from tests.engine.experts.unlike import write_unlike
from twd.engine.experts.layout import expert_layout
from twd.kit.errors import CommandError
from twd.settings.model import BackendConfig, DrafterConfig, EngineConfig, ModelConfig, Settings
from twd.supervisor import service_catalog as services
from twd.supervisor.demo import MODEL, demo_settings, mixture_settings
from twd.supervisor.processes import drafter_name, drafters_missing_here, wanted_processes


def names(settings: Settings, *only: str) -> list[str]:
    return [spec.name for spec in wanted_processes(settings, only)]


def test_nothing_configured_needs_edge_metrics_and_agent() -> None:
    assert names(Settings()) == ["edge", "metrics", "agent", "swarm"]


def test_a_pool_needs_somebody_who_decides() -> None:
    assert names(Settings(mode="combined")) == ["edge", "metrics", "agent", "swarm", "coordinator"]


def test_each_model_replica_and_drafter_has_its_process() -> None:
    settings = Settings(
        models={"llama": ModelConfig(path="a.gguf", replicas=2), "qwen/2.5": ModelConfig(path="b.gguf")},
        drafters=(
            DrafterConfig(path="/models/tiny.gguf"),
            DrafterConfig(path="/other/tiny.gguf"),
            DrafterConfig(url="http://127.0.0.1:8080"),
            DrafterConfig(path="c.gguf", name="Quick One"),
        ),
    )
    assert names(settings) == [
        "edge",
        "metrics",
        "agent",
        "swarm",
        "speculator.llama.1",
        "speculator.llama.2",
        "speculator.qwen-2-5",
        "drafter.tiny",
        "drafter.tiny.2",
        "drafter.server",
        "drafter.quick-one",
    ]
    by_name = {spec.name: spec for spec in wanted_processes(settings)}
    assert by_name["speculator.qwen-2-5"].argv[-2:] == ("--model", "qwen/2.5")
    assert by_name["drafter.quick-one"].argv[-2:] == ("--number", "3")


def test_each_backend_has_its_relay() -> None:
    settings = Settings(backends={"Big One": BackendConfig(url="http://127.0.0.1:8000")})
    (relay,) = [spec for spec in wanted_processes(settings) if spec.name.startswith("relay")]
    assert relay.name == "relay.big-one"
    assert relay.argv[-3:] == ("relay", "--model", "Big One")


def test_single_services_can_be_named_by_kind_or_fully() -> None:
    settings = Settings(models={"a": ModelConfig(path="a.gguf"), "b": ModelConfig(path="b.gguf")})
    assert names(settings, "edge") == ["edge"]
    assert names(settings, "speculator") == ["speculator.a", "speculator.b"]
    assert names(settings, "speculator.b", "metrics") == ["metrics", "speculator.b"]


def test_names_are_unique_and_fit_for_files() -> None:
    models = {name: ModelConfig(path="x.gguf") for name in ("A/b", "a:b", "a-b")}
    listed = names(Settings(models=models))
    assert len(set(listed)) == len(listed)
    assert not any(set(name) & set("/: ") for name in listed)


def test_engine_processes_get_the_engine_environment() -> None:
    settings = Settings(
        engine=EngineConfig(env={"CUDA_VISIBLE_DEVICES": "1"}),
        models={"a": ModelConfig(path="a.gguf")},
        drafters=(DrafterConfig(path="b.gguf"),),
    )
    environments = {spec.name: dict(spec.environment) for spec in wanted_processes(settings)}
    assert environments["speculator.a"] == environments["drafter.b"] == {"CUDA_VISIBLE_DEVICES": "1"}
    assert environments["edge"] == {}


def test_the_demo_has_a_target_and_a_drafter() -> None:
    settings = demo_settings(
        Settings(models={"mine": ModelConfig(path="a.gguf")}), Path("/cache/demo.gguf"), Path("/cache/draft.gguf")
    )
    assert settings.default_model == MODEL
    assert names(settings) == ["edge", "metrics", "agent", "swarm", f"speculator.{MODEL}", f"drafter.{MODEL}-quick"]


def test_the_demo_mixture_gets_less_memory_than_it_needs(tmp_path: Path) -> None:
    mixture = write_unlike(tmp_path / "mixture.gguf")
    layout = expert_layout(mixture)
    assert layout is not None
    model = mixture_settings(Settings(), mixture, mixture, 0).models[MODEL]
    assert model.moe_stream == "on"
    assert model.moe_memory_gb == (int(0.6 * mixture.stat().st_size) - layout.dense_bytes) / 2**30
    less = mixture_settings(Settings(), mixture, mixture, 7).models[MODEL].moe_memory_gb
    assert isinstance(less, float)
    assert less < 7 / 1024
    with pytest.raises(CommandError, match=r"--memory 1 is too little for this mixture; take 6 or more"):
        mixture_settings(Settings(), mixture, mixture, 1)


def test_drafters_of_other_machines_are_not_started_and_named() -> None:
    drafters = (
        DrafterConfig(path="a.gguf", node="desk"),
        DrafterConfig(path="b.gguf", node="attic"),
        DrafterConfig(path="c.gguf"),
        DrafterConfig(url="http://h", node="attic"),
    )
    plain = Settings(node="desk", drafters=drafters)
    assert names(plain, "drafter") == ["drafter.a", "drafter.c"]
    first, second = drafters_missing_here(plain)
    assert first.startswith("drafter b is not started on desk, since its node is attic: start it there with `twd run")
    assert second == "drafter server is not started on desk, since its node is attic: start it there"


def test_in_a_pool_agents_start_draft_models_and_only_servers_are_asked_from_here() -> None:
    settings = Settings(
        node="desk", mode="combined", drafters=(DrafterConfig(path="a.gguf"), DrafterConfig(url="http://h"))
    )
    assert names(settings, "drafter") == ["drafter.server"]
    assert drafters_missing_here(settings) == []
    (spec,) = wanted_processes(settings, ("drafter",))
    assert spec.argv[-2:] == ("--number", "1")


def test_drafters_are_called_by_name_model_or_file() -> None:
    assert drafter_name(DrafterConfig(path="/models/Tiny.gguf")) == "Tiny"
    assert drafter_name(DrafterConfig(path=r"C:\models\Tiny.gguf")) == "Tiny"
    assert drafter_name(DrafterConfig(url="http://h", model_name="phi")) == "phi"
    assert drafter_name(DrafterConfig(url="http://h")) == "server"


@pytest.mark.parametrize("name", ["org/qwen:0.5b", "big.gguf"])
def test_a_name_that_looks_like_a_path_is_that_of_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr(services, "_speculator_of", lambda ctx, settings, name, replica: served.append(name))
    settings = Settings(models={name: ModelConfig(path="/models/qwen.gguf")})
    (argv,) = [spec.argv for spec in wanted_processes(settings) if spec.serves == name]
    services.SERVICES["speculator"](cast(Any, None), settings, services.ServiceChoice(argv[-1]))
    assert served == [name]
