"""The forerunner's files and variables load, each with a hint of the new name."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from twd.settings.errors import ConfigError
from twd.settings.legacy import MOVED_KEYS, MOVED_VARIABLES, OLD_KEYS
from twd.settings.load import Loaded, load_settings
from twd.settings.model import Settings

PROXY = """
proxy:
  host: 0.0.0.0
  port: 8088
  max_draft_tokens: 32
  fallback_on_draft_failure: true
  auth_token: "${TIGHTWAD_PROXY_TOKEN}"
  allow_private_upstream: "false"
  chat_template: chatml
  draft: {url: "http://192.168.1.20:11434", model_name: "qwen3:8b", backend: ollama}
  target: {url: "http://192.168.1.10:11434", model_name: "qwen3:32b", backend: ollama}
  draft_fallback:
    url: http://192.168.1.30:8081
    model_name: qwen3:1.7b
    backend: llamacpp
"""

CLUSTER = """
proxy:
  draft: {url: "http://192.168.1.50:8081", model_name: qwen3-8b, backend: llamacpp}
  target: {url: "http://192.168.1.100:8080", model_name: qwen3-32b, backend: llamacpp}
coordinator:
  host: 0.0.0.0
  port: 8090
  backend: hip
  gpus:
    - {name: "RTX 4070 Ti Super", vram_gb: 16}
    - {name: "RTX 3060", vram_gb: 12}
  extra_args: ["--no-mmap", "--no-warmup"]
  env: {HSA_ENABLE_SDMA: "1"}
workers:
  - host: 192.168.1.20
    gpus: [{name: "RTX 2070", vram_gb: 8, rpc_port: 50052}]
models:
  qwen3-32b: {path: /models/big.gguf, ctx_size: 8192, flash_attn: "auto", default: true}
  small: {path: /models/small.gguf, predict: 100, flash_attn: off}
ram_reclaim: on
binaries: {coordinator: /opt/llama-server, rpc_server: /opt/rpc-server}
peer: {host: 0.0.0.0, port: 9292, auth_token: secret, model_dirs: [/models]}
quality_gate:
  verifier: {url: "http://v:8080", model_name: judge}
  agents: [{url: "http://a:11434", model_name: tiny, backend: ollama}]
  routing: random
  max_retries: 2
  port: 8088
"""

COMBINED = """
proxy:
  host: 0.0.0.0
  port: 8088
  max_draft_tokens: auto
  mode: combined
  draft: {url: "http://localhost:11434", model_name: "llama3.1:8b", backend: ollama}
coordinator: {host: 0.0.0.0, port: 8080, model: Llama-3.3-70B-Q4_K_M.gguf}
workers:
  - {host: 192.168.1.10, rpc_port: 50052}
  - {host: 192.168.1.20, rpc_port: 50053}
"""


def load(folder: Path, text: str | None, env: Mapping[str, str] | None = None) -> Loaded:
    if text is not None:
        (folder / "configs").mkdir(exist_ok=True)
        (folder / "configs" / "cluster.yaml").write_text(text)
    return load_settings(None, env or {}, folder, folder / "home")


def test_a_proxy_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, PROXY, {"TIGHTWAD_PROXY_TOKEN": "s3cret"})
    settings = loaded.settings
    assert (settings.edge.host, settings.edge.port, settings.edge.token) == ("0.0.0.0", 8088, "s3cret")
    assert settings.edge.allow_private_upstream is False
    assert settings.speculation.max_draft_tokens == 32
    first, second = settings.drafters
    assert (first.url, first.kind, first.model_name) == ("http://192.168.1.20:11434", "ollama", "qwen3:8b")
    assert (second.kind, second.fallback) == ("llamacpp", True)
    assert settings.default_model == "qwen3:32b"
    assert settings.backends["qwen3:32b"].kind == "ollama"
    for hint in (
        "proxy.port is now edge.port",
        "proxy.draft is now an entry of drafters",
        "proxy.draft_fallback is now an entry of drafters with fallback: true",
        "proxy.target is now backends.qwen3:32b",
        "TIGHTWAD_PROXY_TOKEN is now TWD_TOKEN",
    ):
        assert hint in loaded.hints
    assert any(hint.startswith("proxy.chat_template is not read") for hint in loaded.hints)


def test_a_cluster_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, CLUSTER)
    settings = loaded.settings
    assert settings.default_model == "qwen3-32b"
    assert settings.models["qwen3-32b"].flash_attn == "auto"
    assert (settings.models["small"].flash_attn, settings.models["small"].predict) == ("off", 100)
    assert settings.backends["qwen3-32b-target"].url == "http://192.168.1.100:8080"
    assert settings.engine.backend == "hip"
    assert settings.engine.env == {"HSA_ENABLE_SDMA": "1"}
    assert settings.engine.extra_args == ("--no-mmap", "--no-warmup")
    assert [gpu.vram_gb for gpu in settings.pool.gpus] == [16, 12]
    assert (settings.pool.engine, settings.pool.llama_server.port) == ("rpc", 8090)
    assert settings.pool.workers[0].gpus[0].rpc_port == 50052
    assert settings.ram_reclaim == "on"
    assert settings.agent.binaries.rpc_server == "/opt/rpc-server"
    assert (settings.agent.port, settings.agent.token, settings.agent.model_dirs) == (9292, "secret", ("/models",))
    assert (settings.gate.verifier, settings.gate.max_retries) == ("judge", 2)
    assert settings.gate.agents[0].kind == "ollama"
    assert "workers is now pool.workers" in loaded.hints
    assert any("proxy.host is not given" in hint for hint in loaded.hints)
    assert any("pool.trusted_lan: true" in hint for hint in loaded.hints)


def test_combined_mode(tmp_path: Path) -> None:
    settings = load(tmp_path, COMBINED).settings
    assert settings.mode == "combined"
    assert settings.models["Llama-3.3-70B-Q4_K_M"].path == str(tmp_path / "configs" / "Llama-3.3-70B-Q4_K_M.gguf")
    assert settings.default_model == "Llama-3.3-70B-Q4_K_M"
    assert [worker.rpc_port for worker in settings.pool.workers] == [50052, 50053]
    assert settings.drafters[0].model_name == "llama3.1:8b"


def test_a_target_that_is_the_pool_itself_is_left_out(tmp_path: Path) -> None:
    text = COMBINED.replace("  mode: combined\n", "  target: {url: 'http://localhost:8080', model_name: x}\n")
    loaded = load(tmp_path, text)
    assert loaded.settings.backends == {}
    assert any("the pool's own llama-server" in hint for hint in loaded.hints)


def test_several_drafters(tmp_path: Path) -> None:
    settings = load(tmp_path, "proxy:\n  drafters:\n  - {url: 'http://a'}\n  - {url: 'http://b'}\n").settings
    assert [drafter.url for drafter in settings.drafters] == ["http://a", "http://b"]


def test_old_keys_beside_new_ones(tmp_path: Path) -> None:
    text = "edge: {max_queue: 3}\ndrafters: [{path: /d.gguf}]\nproxy: {port: 99, draft: {url: 'http://a'}}\n"
    settings = load(tmp_path, text).settings
    assert (settings.edge.max_queue, settings.edge.port) == (3, 99)
    assert [drafter.path or drafter.url for drafter in settings.drafters] == ["/d.gguf", "http://a"]


def test_our_coordinator_keys_are_not_old_ones(tmp_path: Path) -> None:
    loaded = load(tmp_path, "coordinator: {lease_s: 9}\n")
    assert loaded.settings.coordinator.lease_s == 9
    assert loaded.hints == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proxy: {prot: 1}", "cluster.yaml:1:9: proxy.prot: unknown key; did you mean proxy.port?"),
        ("coordinator: {leaze_s: 1}", "coordinator.leaze_s: unknown key; did you mean coordinator.lease_s?"),
        ("proxy: {port: 99999}", "cluster.yaml:1:15: proxy.port (now edge.port): found 99999; expected a whole"),
        ("proxy: {port: 1}\nedge: {port: 2}", "proxy.port: edge.port is given too"),
        ("proxy: [1]", "proxy: not a section; expected a section"),
        ("proxy: {consensus_mode: nope}", "proxy.consensus_mode (now consensus.policy): found 'nope'; expected"),
        ("proxy: {max_draft_tokens: -5}", "proxy.max_draft_tokens (now speculation.max_draft_tokens): found -5"),
        ("proxy: {draft: {url: 'http://a', backend: vlm}}", "proxy.draft.backend (now drafters[0].kind): found 'vlm'"),
        ("proxy: {draft: {model_name: a}}", "proxy.draft (now drafters[0]): a drafter has either"),
        ("proxy: {target: {model_name: a}}", "proxy.target.url (now backends.a.url): missing; expected a URL"),
        ("workers: [{gpus: []}]", "workers[0].host (now pool.workers[0].host): missing; expected a host"),
        ("workers: 5", "workers (now pool.workers): found 5; expected a list of sections"),
        ("quality_gate: {agents: 5}", "quality_gate.agents (now gate.agents): found 5"),
        ("quality_gate: {verifier: 5}", "quality_gate.verifier (now backends.verifier): found 5"),
        ("proxy: {drafters: {}}", "proxy.drafters (now drafters[0]): a drafter has either"),
        ("coordinator: {model: [x]}", "coordinator.model"),
        ("models: 5\nproxy: {target: {url: 'http://a'}}", "models: found 5; expected a section of NAME: a section"),
    ],
)
def test_mistakes_carry_the_name_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_variables_alone_make_a_working_set_up(tmp_path: Path) -> None:
    env = {
        "TIGHTWAD_DRAFT_URL": "http://d:1",
        "TIGHTWAD_DRAFT_MODEL": "small",
        "TIGHTWAD_TARGET_URL": "http://t:2",
        "TIGHTWAD_TARGET_MODEL": "big",
        "TIGHTWAD_TARGET_BACKEND": "ollama",
        "TIGHTWAD_PORT": "9999",
        "TIGHTWAD_TOKEN": "1234",
        "TIGHTWAD_DISABLE_PREWARM": "1",
        "TIGHTWAD_ALLOW_PRIVATE_UPSTREAM": "no",
        "TIGHTWAD_CHAT_TEMPLATE": "chatml",
        "TIGHTWAD_NEW": "x",
    }
    loaded = load(tmp_path, None, env)
    settings = loaded.settings
    assert (settings.drafters[0].url, settings.drafters[0].model_name) == ("http://d:1", "small")
    assert (settings.backends["big"].kind, settings.default_model) == ("ollama", "big")
    assert (settings.edge.port, settings.edge.token, settings.swarm.token) == (9999, "1234", "1234")
    assert (settings.prewarm, settings.edge.allow_private_upstream) == (False, False)
    assert "TIGHTWAD_PORT is now TWD_EDGE_PORT" in loaded.hints
    assert "TIGHTWAD_NEW is not read: no setting has this name" in loaded.hints
    assert any(hint.startswith("TIGHTWAD_CHAT_TEMPLATE is not read: the model's own") for hint in loaded.hints)
    assert loaded.places["edge.port"].source == "TIGHTWAD_PORT"


def test_old_variables_win_over_files_and_lose_to_new_ones(tmp_path: Path) -> None:
    env = {"TIGHTWAD_PORT": "2", "TIGHTWAD_DRAFT_URL": "http://env", "TIGHTWAD_PROXY_TOKEN": "x"}
    loaded = load(tmp_path, PROXY, env)
    assert (loaded.settings.edge.port, loaded.settings.drafters[0].url) == (2, "http://env")
    assert loaded.settings.drafters[0].model_name == "qwen3:8b"
    assert load(tmp_path, PROXY, {**env, "TWD_EDGE_PORT": "3"}).settings.edge.port == 3


def test_old_places_of_files(tmp_path: Path) -> None:
    (tmp_path / "tightwad.yaml").write_text("proxy: {port: 7}")
    loaded = load(tmp_path, None)
    assert loaded.settings.edge.port == 8088
    assert loaded.hints == [f"{tmp_path}/tightwad.yaml is not read by itself: name it with -c"]
    named = load(tmp_path, None, {"TIGHTWAD_CONFIG": "tightwad.yaml"})
    assert named.settings.edge.port == 7
    assert named.hints[0] == "TIGHTWAD_CONFIG is now TWD_CONFIG"


def test_each_old_key_has_one_fate_and_a_real_new_place() -> None:
    assert len(set(OLD_KEYS)) == len(OLD_KEYS)
    for key in [*MOVED_KEYS.values(), *(key for keys in MOVED_VARIABLES.values() for key in keys)]:
        place: object = Settings()
        for name in key.split("."):
            place = getattr(place, name)


def test_settings_that_were_taken_away_stop_nobody(tmp_path: Path) -> None:
    text = "speculation: {tree: off, linger: on, enabled: false}\n"
    loaded = load(tmp_path, text, {"TWD_SPECULATION_LINGER": "off"})
    assert not loaded.settings.speculation.enabled
    for name in ("speculation.tree", "speculation.linger", "TWD_SPECULATION_LINGER"):
        assert any(hint.startswith(f"{name} is not read: ") for hint in loaded.hints)
