"""Where settings come from, what wins, and what the errors say."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as shape

from twd.settings.check import Checker
from twd.settings.env import variables
from twd.settings.errors import ConfigError, SettingPlace
from twd.settings.load import Loaded, find_source, load_settings
from twd.settings.model import Settings
from twd.settings.yaml_tree import parse_yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here" / "configs").mkdir(parents=True)
    (tmp_path / "home" / ".twd").mkdir(parents=True)
    return tmp_path


def load(folder: Path, text: str | None = None, env: Mapping[str, str] | None = None) -> Loaded:
    if text is not None:
        (folder / "here" / "twd.yaml").write_text(text)
    return load_settings(None, env or {}, folder / "here", folder / "home")


def problems(folder: Path, text: str, env: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, env)
    here = str(folder / "here" / "twd.yaml") + ":"
    return [str(problem).replace(here, "") for problem in caught.value.problems]


def test_no_file_at_all_gives_the_defaults(folder: Path) -> None:
    loaded = load(folder)
    assert loaded.source is None
    assert loaded.settings == Settings(home=str(folder / "home" / ".twd"))
    assert loaded.settings.edge.port == 8088
    assert loaded.settings.edge.host == "127.0.0.1"
    assert loaded.places == {}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "edge:\n", "models:\ndrafters:\n"])
def test_empty_files_and_sections_are_defaults(folder: Path, text: str) -> None:
    assert load(folder, text).settings.edge.port == 8088


def test_files_are_searched_in_order(folder: Path) -> None:
    here, home = folder / "here", folder / "home"
    order = [
        folder / "named.yaml",
        folder / "variable.yaml",
        here / "twd.yaml",
        here / "configs" / "cluster.yaml",
        home / ".twd" / "config.yaml",
    ]
    for path in order:
        path.write_text("{}")
    env = {"TWD_CONFIG": "../variable.yaml"}
    assert find_source("../named.yaml", env, here, home)[0] == here / "../named.yaml"
    assert find_source(None, env, here, home)[0] == here / "../variable.yaml"
    for path in order[2:]:
        assert find_source(None, {}, here, home)[0] == path
        path.unlink()
    assert find_source(None, {}, here, home) == (None, [])


def test_the_state_folder_moves_with_its_variable(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "config.yaml").write_text("edge: {port: 1234}")
    loaded = load(folder, env={"TWD_HOME": str(folder / "other")})
    assert loaded.settings.edge.port == 1234
    assert loaded.settings.home_dir == folder / "other"


@pytest.mark.parametrize("named", ["-c", "TWD_CONFIG"])
def test_a_named_file_that_is_not_there(folder: Path, named: str) -> None:
    path, env = ("no.yaml", {}) if named == "-c" else (None, {"TWD_CONFIG": "no.yaml"})
    with pytest.raises(ConfigError, match=f"here/no.yaml: no such file \\({named} names it\\)"):
        load_settings(path, env, folder / "here", folder / "home")


def test_a_folder_that_may_not_be_looked_into_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the home of root, for a service that runs with HOME=/root."""
    closed = folder / "home"
    is_file = Path.is_file

    def looked(path: Path) -> bool:
        if path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", looked)
    assert find_source(None, {}, folder / "here", closed)[0] == closed / ".twd" / "config.yaml"
    assert find_source(None, {"TWD_HOME": str(folder / "state")}, folder / "here", closed) == (None, [])


def test_a_folder_or_binary_file_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(".", {}, folder / "here", folder / "home")
    (folder / "here" / "twd.yaml").write_bytes(b"edge:\n  host: \xff\xfe")
    with pytest.raises(ConfigError, match=r"twd.yaml:2:1: bytes that are not UTF-8"):
        load(folder)
    (folder / "here" / "twd.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(ConfigError, match="more than 256 KiB"):
        load(folder)


def test_the_environment_wins_over_the_file(folder: Path) -> None:
    env = {
        "TWD_EDGE_PORT": "9000",
        "TWD_EDGE_HOST": "0.0.0.0",
        "TWD_TOKEN": "12345",
        "TWD_BUS_URL": "nats://one:4222,nats://two:4222",
        "TWD_SPECULATION_NGRAM_ENABLED": "off",
        "TWD_SPECULATION_MAX_DRAFT_TOKENS": "16",
        "TWD_EDGE_ALLOWED_HOSTS": "a.example, b.example",
        "TWD_POOL_WORKERS": "[{host: one}, {host: two, rpc_port: 7}]",
        "TWD_BUS_USER": "  ",
    }
    loaded = load(folder, "edge: {port: 1, max_queue: 5}\nspeculation:\n", env)
    settings = loaded.settings
    assert (settings.edge.port, settings.edge.host, settings.edge.token) == (9000, "0.0.0.0", "12345")
    assert settings.edge.max_queue == 5
    assert settings.edge.allowed_hosts == ("a.example", "b.example")
    assert settings.bus.url.startswith("nats://one")
    assert not settings.speculation.ngram.enabled
    assert settings.speculation.max_draft_tokens == 16
    assert [(worker.host, worker.rpc_port) for worker in settings.pool.workers] == [("one", 50052), ("two", 7)]
    assert loaded.places["edge.port"].source == "TWD_EDGE_PORT"
    assert loaded.places["edge.token"].source == "TWD_TOKEN"
    assert loaded.places["edge.max_queue"].line == 1
    assert "bus.user" not in loaded.places


def test_no_two_settings_share_a_variable() -> None:
    table = variables()
    assert len({*table.values()}) == len(table) - 1, "only TWD_TOKEN is a second name"


def test_wrong_variables_are_named(folder: Path) -> None:
    env = {
        "TWD_EDGE_PRT": "1",
        "TWD_LOG_LEVEL": "loud",
        "TWD_SOMETHING": "x",
        "TWD_TEST_THING": "x",
        "TWD_TOKEN": "a",
        "TWD_EDGE_TOKEN": "b",
        "TWD_POOL_WORKERS": "[{host: ",
    }
    text = "\n".join(problems(folder, "{}", env))
    assert "TWD_EDGE_PRT: no setting has this name; did you mean TWD_EDGE_PORT?" in text
    assert "TWD_LOG_LEVEL: log.level: found 'loud'; expected debug, error, info or warning" in text
    assert "TWD_TOKEN: differs from TWD_EDGE_TOKEN" in text
    assert "TWD_POOL_WORKERS:1:" in text
    assert load(folder, env={"TWD_SOMETHING": "x"}).hints == ["TWD_SOMETHING is no setting; twd does not read it"]


def test_variables_that_others_read_are_left_to_them(folder: Path) -> None:
    compose = (Path(__file__).parents[2] / "deploy/nats/compose.yaml").read_text()
    env = dict.fromkeys(re.findall(r"\$\{(TWD_\w+)", compose), "x")
    assert {"TWD_EDGE_PUBLISH", "TWD_BUS_PUBLISH", "TWD_MODELS"} <= env.keys()
    loaded = load(folder, env=env)
    assert [hint for hint in loaded.hints if "MODELS" in hint or "PUBLISH" in hint] == []


def test_variables_in_values_are_filled_in(folder: Path) -> None:
    text = """
    edge: {port: "${PORT:-8099}", token: "${KEY}", allow_unauthenticated: "${OPEN:-no}"}
    models: {a: {path: "${DIR}/a.gguf", ctx_size: "${CTX:-4096}", threads: "${EMPTY:-3}"}}
    pool: {workers: "${WORKERS}"}
    gate: {verification_prompt: "$${KEY} and $5"}
    """
    env = {"KEY": "123", "DIR": "/models", "EMPTY": "", "WORKERS": "[{host: one}]"}
    settings = load(folder, text, env).settings
    assert (settings.edge.port, settings.edge.token) == (8099, "123")
    assert settings.models["a"].path == "/models/a.gguf"
    assert (settings.models["a"].ctx_size, settings.models["a"].threads) == (4096, 3)
    assert settings.pool.workers[0].host == "one"
    assert settings.gate.verification_prompt == "${KEY} and $5"


def test_variables_that_are_not_set_are_named(folder: Path) -> None:
    found = problems(folder, "bus:\n  token: a${GONE}b\nedge: {token: '${', host: '${a b}', port: '${P:-x}'}\n")
    assert found[:2] == [
        "2:10: bus.token: ${GONE}, but GONE is not set; expected it to be set, or ${GONE:-a default}",
        "3:15: edge.token: '${'; expected ${NAME} or ${NAME:-default}; $${ writes a plain ${",
    ]
    assert "3:27: edge.host: '${a b}'; expected ${NAME} or ${NAME:-default}; $${ writes a plain ${" in found
    assert "3:43: edge.port: found 'x'; expected a whole number from 0 to 65535" in found
    assert "quotes around ${...}" in problems(folder, "bus: {token: ${A}}", {"A": "x"})[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edge:\n  port: 99999", "2:9: edge.port: found 99999; expected a whole number from 0 to 65535"),
        ("edge:\n  port: '8088'", "2:9: edge.port: found '8088'; expected a whole number from 0 to 65535 without"),
        ("edge:\n  port: 80.5", "2:9: edge.port: found 80.5; expected a whole number from 0 to 65535"),
        ("edge:\n  port: true", "2:9: edge.port: found true; expected a whole number from 0 to 65535"),
        ("edge:\n  port:", "2:8: edge.port: found nothing; expected a whole number from 0 to 65535"),
        ("edge:\n  prot: 1", "2:3: edge.prot: unknown key; did you mean edge.port?"),
        ("edge.port: 1", "1:1: edge.port: unknown key; expected a section: `edge: {port: ...}`"),
        ("edgy: {}", "1:1: edgy: unknown key; did you mean edge?"),
        ("bus:\n  zzz: 1", "2:3: bus.zzz: unknown key; expected one of url, host, port, "),
        ("edge: 5", "1:7: edge: found 5; expected a section"),
        ("edge: [1]", "1:7: edge: found a list; expected a section"),
        ("drafters: {}", "1:11: drafters: found a section; expected a list of sections"),
        ("[1, 2]", "1:1: found a list; expected a section"),
        ("edge: {max_queue: -1}", "1:19: edge.max_queue: found -1; expected a whole number of at least 1"),
        ("edge: {deadline_s: 0}", "1:20: edge.deadline_s: found 0; expected a number above 0 and up to 86400"),
        ("edge: {deadline_s: .nan}", "1:20: edge.deadline_s: found '.nan'; expected a number"),
        ("edge: {deadline_s: 1e999}", "1:20: edge.deadline_s: found inf; expected a number"),
        ("speculation: {max_draft_tokens: -5}", "1:33: speculation.max_draft_tokens: found -5; expected auto or a"),
        ("backends: {b: {url: 'http://x', kind: vlm}}", "found 'vlm'; expected auto, llamacpp, ollama, openai, "),
        ("backends: {b: {url: 'http://x', kind: vlm}}", "did you mean vllm?"),
        ("backends: {b: {url: 'file:///etc'}}", "found 'file:///etc'; expected a URL that starts with http://"),
        ("bus: {url: 'http://x'}", "bus.url: found 'http://x'; expected nats://HOST:PORT or tls://HOST:PORT, "),
        ("bus: {url: 'nats://a:99999'}", "1:12: bus.url: found 'nats://a:99999'; expected nats://HOST:PORT or"),
        ("bus: {url: 'nats://one:4222,nats://[::1'}", "1:12: bus.url: found 'nats://one:4222,nats://[::1'"),
        ("bus: {url: 'ws://a:80'}", "1:12: bus.url: found 'ws://a:80'"),
        ("edge: {token: 123456}", "1:15: edge.token: found a number; expected text; put it in quotes"),
        ("edge: {host: 'a:80'}", "found 'a:80'; expected a host name or IP address without a port"),
        ("pool: {host: rig..lan}", "found 'rig..lan'; expected a host name or IP address without a port"),
        (f"pool: {{host: {'x' * 64}}}", "expected a host name or IP address without a port"),
        ("models: {a: {}}", "1:10: models.a.path: missing; expected a path (The GGUF file.)"),
        ("models: {'a b': {path: x}}", "1:10: models.a b: found 'a b'; expected a name of letters"),
        ("edge: {port: 1, port: 2}", "1:17: edge.port: a key given twice, first in line 1"),
        ("edge: {port: 1", "not YAML"),
        ("a: b: c", "1:5: not YAML: mapping values are not allowed here"),
        ("edge: !!python/object:os.system {}", "edge: the tag tag:yaml.org,2002:python/object:os.system"),
        ("edge: {port: !!int x}", "1:14: edge.port: 'x' under the tag"),
        ("edge: {host: !secret x}", "1:14: edge.host: the tag !secret; expected a value without a tag"),
        ("? [a]\n: 1", "1:3: a key that is not plain text"),
        ("edge: {}\n--- \nedge: {}", "not YAML: expected a single document in the stream"),
        ("edge: {tls: {cert: a}}", "1:8: edge.tls: cert and key go together"),
        ("bus: {user: a}", "1:1: bus: user and password go together"),
        ("bus: {token: a, nkey_file: b}", "token and nkey_file exclude each other"),
        ("drafters:\n- {}", "2:3: drafters[0]: a drafter has either a path"),
        ("drafters: [{path: a, for_model: b}]", "drafters.for_model names 'b', which is neither under models nor"),
        ("models: {a: {path: x}}\nbackends: {a: {url: 'http://x'}}", "'a' is under models and under backends"),
        ("models: {a: {path: x, default: on}, b: {path: y, default: on}}", "a and b are both marked default"),
        ("pool: {split: [0, 0]}", "split gives every device nothing"),
        ("edge: {host: \"\x07\"}", "1:15: a character that YAML does not allow (U+0007)"),
        ("edge: {host: \"\\UFFFFFFFF\"}", "not YAML"),
        ("[" * 1000, "1:33: not YAML: nested deeper than 32 levels"),
        ("edge: &a [*a]", "1:7: aliases that unfold without end"),
    ],
)  # fmt: skip
def test_mistakes_say_where_what_and_what_instead(folder: Path, text: str, message: str) -> None:
    assert message in "\n".join(problems(folder, text))


def test_all_mistakes_of_a_file_come_at_once(folder: Path) -> None:
    found = problems(folder, "edge: {port: 0.5, hots: a}\nlog: {level: x}\nmodels: {a: {ctx_size: -1}}\n")
    assert len(found) == 5
    assert [line.split(":")[0] for line in found] == ["1", "1", "2", "3", "3"]


def test_aliases_cannot_blow_up(folder: Path) -> None:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert "aliases" in problems(folder, "l0: &l0 [x, x]\n" + "\n".join(levels))[0]


def test_secrets_stay_out_of_errors(folder: Path) -> None:
    text = "\n".join(problems(folder, "edge: {token: [hunter2]}\nbus: {password: 7777}\n"))
    assert "hunter2" not in text
    assert "7777" not in text


@pytest.mark.parametrize("word", ["false", "off", "no", "0", "False", "OFF", "'false'", "'off'", "'0'", "n0"])
def test_words_for_no(folder: Path, word: str) -> None:
    if word == "n0":
        assert "expected true or false" in problems(folder, "edge: {allow_private_upstream: n0}")[0]
        return
    assert load(folder, f"edge: {{allow_private_upstream: {word}}}").settings.edge.allow_private_upstream is False


def test_bare_on_and_off_are_switches_only_where_the_type_has_them(folder: Path) -> None:
    settings = load(folder, "ram_reclaim: off\nmodels: {a: {path: x, flash_attn: true}}\n").settings
    assert settings.ram_reclaim == "off"
    assert settings.models["a"].flash_attn == "on"
    assert "found false" in problems(folder, "log: {format: off}")[0]
    assert load(folder, "consensus: {policy: off}").settings.consensus.policy == "off"


def test_paths_start_where_they_are_written(folder: Path) -> None:
    text = "models: {a: {path: m/a.gguf}, b: {path: ~/b.gguf}, c: {path: /c.gguf}}\nagent: {model_dirs: [x]}"
    (folder / "here" / "configs" / "cluster.yaml").write_text(text)
    loaded = load(folder, env={"TWD_BUS_NKEY_FILE": "seed.nk", "TWD_HOME": "~/state"})
    here, home = folder / "here", folder / "home"
    paths = [model.path for model in loaded.settings.models.values()]
    assert paths == [str(here / "configs/m/a.gguf"), str(home / "b.gguf"), "/c.gguf"]
    assert loaded.settings.agent.model_dirs == (str(here / "configs/x"),)
    assert loaded.settings.bus.nkey_file == str(here / "seed.nk")
    assert loaded.settings.home == str(home / "state")


def test_the_default_model(folder: Path) -> None:
    assert load(folder).settings.default_model == ""
    two = "models: {a: {path: x}}\nbackends: {b: {url: 'http://x', default: DEFAULT}}\n"
    assert load(folder, two.replace("DEFAULT", "false")).settings.default_model == "a"
    assert load(folder, two.replace("DEFAULT", "true")).settings.default_model == "b"


KEYS = st.sampled_from(["edge", "models", "drafters", "pool", "port", "split", "path", "a", "", "<<", "${X}", "on"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), KEYS)
TREES = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


JUNK = st.sampled_from(list("edge: port{}[]&a*!?|>-'\"\\\n\t #%@`,<~0.x${}\u2028\x85\ufeff"))


@given(text=st.text(alphabet=JUNK, max_size=60))
def test_junk_raises_nothing_but_config_errors(text: str) -> None:
    assert_settings_or_problems(text)


@given(tree=TREES)
def test_wrong_trees_raise_nothing_but_config_errors(tree: object) -> None:
    assert_settings_or_problems(yaml.safe_dump(tree, allow_unicode=True))


def assert_settings_or_problems(text: str) -> None:
    try:
        tree, _ = parse_yaml(text, SettingPlace("junk.yaml"), {"a": "[1"})
    except ConfigError:
        return
    checker = Checker("/home")
    settings = checker.build(tree, shape.type_info(Settings))
    assert checker.problems or isinstance(settings, Settings)
