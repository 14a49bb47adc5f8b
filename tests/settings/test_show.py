"""What people see of the settings, and that dumped settings load again."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as shape

from tests.properties import examples
from twd.settings.check import Checker
from twd.settings.errors import SettingPlace
from twd.settings.load import Loaded, load_settings
from twd.settings.model import ModelConfig, Settings
from twd.settings.show import MASK, check_settings, describe, dump_settings
from twd.settings.values import UNSOUND, Plain, plain
from twd.settings.yaml_tree import parse_yaml


def load(folder: Path, text: str, env: Mapping[str, str] | None = None) -> Loaded:
    (folder / "twd.yaml").write_text(text)
    return load_settings(None, env or {}, folder, folder / "home")


def test_each_setting_says_where_it_comes_from(tmp_path: Path) -> None:
    text = "edge:\n  max_queue: 5\nmodels: {a: {path: /x}}\nbackends: {b: {url: 'http://me:pw@h', api_key: k}}\n"
    loaded = load(tmp_path, text, {"TWD_EDGE_PORT": "1", "TWD_TOKEN": "hunter2"})
    entries = {entry.key: entry for entry in describe(loaded)}
    assert entries["edge.max_queue"].source == f"{tmp_path}/twd.yaml:2:14"
    assert entries["edge.port"].source == "TWD_EDGE_PORT"
    assert (entries["edge.host"].source, entries["edge.host"].value) == ("default", "127.0.0.1")
    assert entries["models.a.path"].value == "/x"
    assert entries["edge.token"].value == MASK
    assert entries["backends.b.api_key"].value == MASK
    assert entries["backends.b.url"].value == f"http://{MASK}@h"
    assert entries["drafters"].value == []
    assert entries["edge.port"].about == "Port of the API; 0 takes a free one."
    assert "hunter2" not in str(list(entries.values()))


def test_secrets_in_the_engines_environment_are_masked(tmp_path: Path) -> None:
    loaded = load(tmp_path, "engine: {env: {HF_TOKEN: abc, HSA_ENABLE_SDMA: '0'}}")
    values = {entry.key: entry.value for entry in describe(loaded)}
    assert (values["engine.env.HF_TOKEN"], values["engine.env.HSA_ENABLE_SDMA"]) == (MASK, "0")


def test_secrets_in_the_engines_arguments_are_masked(tmp_path: Path) -> None:
    loaded = load(tmp_path, "engine: {extra_args: [--api-key, abc, --no-mmap, --hf-token=def, --top-k, '4']}")
    (value,) = [entry.value for entry in describe(loaded) if entry.key == "engine.extra_args"]
    assert value == ["--api-key", MASK, "--no-mmap", f"--hf-token={MASK}", "--top-k", "4"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("me:pw@h:4222", f"{MASK}@h:4222"),
        ("nats://me:pw@h,you:word@i:1,tls://token@j", f"nats://{MASK}@h,{MASK}@i:1,tls://{MASK}@j"),
        ("h:4222,nats://i", "h:4222,nats://i"),
    ],
)
def test_sign_ins_at_brokers_are_masked(tmp_path: Path, url: str, shown: str) -> None:
    loaded = load(tmp_path, "backends: {b: {url: 'http://h', model_name: qwen@q4}}", {"TWD_BUS_URL": url})
    values = {entry.key: entry.value for entry in describe(loaded)}
    assert (values["bus.url"], values["backends.b.model_name"]) == (shown, "qwen@q4")


def test_a_check_lists_problems(tmp_path: Path) -> None:
    (tmp_path / "twd.yaml").write_text("edge: {port: x, max_queue: 0}")
    report = check_settings(None, {}, tmp_path, tmp_path)
    assert report.loaded is None
    assert [problem.key for problem in report.problems] == ["edge.port", "edge.max_queue"]


def test_a_check_warns_of_missing_files_and_open_doors(tmp_path: Path) -> None:
    text = "edge: {host: 0.0.0.0}\ngate: {max_retries: 2}\nmodels: {a: {path: no.gguf}, b: {path: twd.yaml}}"
    (tmp_path / "twd.yaml").write_text(text)
    report = check_settings(None, {"TWD_LATER": "1"}, tmp_path, tmp_path)
    assert report.problems == ()
    assert [warning.key for warning in report.warnings] == ["models.a.path", "edge.host"]
    assert "no such file" in str(report.warnings[0])
    assert report.hints == ("TWD_LATER is no setting; twd does not read it",)
    told = check_settings(None, {"TWD_EDGE_ALLOW_UNAUTHENTICATED": "yes"}, tmp_path, tmp_path)
    assert [warning.key for warning in told.warnings] == ["models.a.path"]


@pytest.mark.parametrize(
    ("host", "warns"),
    [
        *((host, False) for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]", "::1")),
        *((host, True) for host in ("localhost.example", "127.example", "::1:2", "192.168.1.1")),
    ],
)
def test_only_what_no_other_machine_reaches_is_no_open_door(tmp_path: Path, host: str, warns: bool) -> None:
    report = check_settings(None, {"TWD_AGENT_HOST": host}, tmp_path, tmp_path)
    assert [warning.key for warning in report.warnings] == ["agent.host"] * warns


def test_only_what_differs_from_the_defaults_is_dumped() -> None:
    assert dump_settings(Settings()) == "{}\n"
    text = dump_settings(Settings(models={"a": ModelConfig(path="/a", threads=4)}, prewarm=False))
    assert text == "prewarm: false\nmodels:\n  a:\n    path: /a\n    threads: 4\n"


NASTY = [
    "on",
    "oN",
    "1e5",
    "0123",
    "12:30",
    "2024-01-01",
    "~",
    "${X}",
    "$${X",
    "a: b",
    "#",
    "\U0001f600",
    "é\n ",
    "=",
    "<<",
]
NEAT = [
    "a.b",
    "::1",
    "10.0.0.0/8",
    "http://h:1/x",
    "nats://a:1,tls://b",
    "https://o.example",
    "*",
    "/v1",
    "A_B",
    "m:8b",
    f"tls://token@10.0.0.9:4222?sha256={'0a' * 32}",
    "",
]
TEXTS = st.sampled_from(NASTY) | st.text(max_size=8).map(lambda text: UNSOUND.sub("", text))


def values(kind: Plain) -> st.SearchStrategy[Any]:
    """Values of a type, those that only look like other types among them."""
    match kind.type:
        case shape.BoolType():
            return st.booleans()
        case shape.LiteralType(values=words):
            return st.sampled_from(words)
        case shape.IntType(ge=low, le=high):
            return st.integers(low, high)
        case shape.FloatType(ge=low, gt=above, le=high):
            return st.floats(low if low is not None else above, high or 1e6, exclude_min=above is not None)
        case shape.StrType(pattern=None) if (fits := kind.check) is not None:
            return st.sampled_from([text for text in NEAT if fits(text)])
        case shape.StrType(pattern=None, min_length=least):
            return TEXTS.map(lambda text: text or "x" * (least or 0))
        case shape.StrType(pattern=str() as pattern):
            return st.sampled_from(
                [text for text in NEAT if re.search(pattern, text) and (not kind.check or kind.check(text))]
            )
        case shape.VarTupleType(item_type=item):
            return st.lists(values(plain(item)), max_size=2).map(tuple)
        case shape.DictType(key_type=name, value_type=item):
            return st.dictionaries(values(plain(name)), values(plain(item)), max_size=2)
        case shape.UnionType(types=types):
            return st.one_of([values(plain(inner)) for inner in types])
        case shape.StructType(cls=cls, fields=fields):
            required = {field.name: values(plain(field.type)) for field in fields if field.required}
            optional = {field.name: values(plain(field.type)) for field in fields if not field.required}
            return st.fixed_dictionaries(required, optional=optional).map(lambda given: (cls, given))
    raise AssertionError(kind)


def built(value: Any) -> Any:
    """Sections out of (class, fields) pairs."""
    match value:
        case (type() as cls, dict() as fields):
            return cls(**{name: built(field) for name, field in fields.items()})
        case tuple():
            return tuple(built(item) for item in value)
        case dict():
            return {name: built(item) for name, item in value.items()}
    return value


KIND = plain(shape.type_info(Settings))


@pytest.mark.parametrize("home", ["\x85", "a\u2028b", "\u2029 x", "two\nlines", "plain"])
def test_odd_line_ends_come_back_as_they_were(home: str) -> None:
    before = Settings(home=home)
    tree, problems = parse_yaml(dump_settings(before), SettingPlace("dump.yaml"), {})
    assert (problems, Checker("~").build(tree, KIND.type)) == ([], before)


@given(data=st.data())
@examples(150)
def test_what_is_dumped_loads_as_the_same(data: st.DataObject) -> None:
    try:
        before = built(data.draw(values(KIND)))
    except ValueError:
        return
    tree, problems = parse_yaml(dump_settings(before), SettingPlace("dump.yaml"), {"X": "filled in"})
    checker = Checker("~")
    after = checker.build(tree, KIND.type)
    assert (problems, checker.problems, after) == ([], [], before)
