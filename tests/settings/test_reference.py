"""The reference and the examples agree with the model."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import inspect as shape

from twd.settings.load import load_settings
from twd.settings.model import Settings
from twd.settings.reference import TARGET, reference
from twd.settings.values import plain

EXAMPLES = sorted((Path(__file__).parents[2] / "contrib" / "examples").glob("*.yaml"))
SECRETS = {"TWD_TOKEN": "a"}


def test_the_reference_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "run: python -m twd.settings.reference"


def test_every_setting_is_explained_in_one_line() -> None:
    for path, about in described(shape.type_info(Settings), ""):
        assert about, path
        assert about.endswith("."), path
        assert len(about) <= 90, path


def described(type_: shape.Type, above: str) -> Iterator[tuple[str, str]]:
    match plain(type_).type:
        case shape.StructType(fields=fields):
            for field in fields:
                yield f"{above}.{field.name}", plain(field.type).about
                yield from described(field.type, f"{above}.{field.name}")
        case shape.DictType(value_type=inner) | shape.VarTupleType(item_type=inner):
            yield from described(inner, above)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load_without_a_hint(example: Path, tmp_path: Path) -> None:
    loaded = load_settings(str(example), SECRETS, tmp_path, tmp_path)
    assert loaded.hints == []
    assert loaded.settings.default_model


def test_there_is_an_example_for_each_kind_of_set_up() -> None:
    assert [path.stem for path in EXAMPLES] == ["homelab", "outside-backends", "pool", "single-box"]


def test_loading_brings_in_nothing_heavy() -> None:
    code = "import sys, twd.settings.load, twd.settings.show; print(*{name.split('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    heavy = {"asyncio", "numpy", "aiohttp", "rich", "click", "nats", "llama_cpp", "jinja2"}
    assert not heavy & set(out.split())
