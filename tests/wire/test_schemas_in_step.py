"""`bus_schemas/` says what the code does: generated anew it is the same, and real messages fit it."""

import json
from pathlib import Path

import jsonschema
import pytest

from twd.wire import schema
from twd.wire.routes import ROUTES, Route

FOLDER = Path(__file__).parents[2] / "bus_schemas"


def test_the_folder_is_in_step() -> None:
    assert schema.check(FOLDER) == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.tag)
def test_a_sample_fits_its_schema_and_a_broken_one_does_not(route: Route) -> None:
    rendered = schema.render_schema(route)
    validator = jsonschema.Draft202012Validator(rendered)
    sample = json.loads((FOLDER / "samples" / schema.schema_path(route)).read_bytes())
    validator.validate(sample)
    assert not validator.is_valid({**sample, "type": "twd.v1.other.thing"})
    assert not validator.is_valid({**sample, "at_ms": "soon"})


def test_what_is_wrong_is_said_in_words(tmp_path: Path) -> None:
    schema.write(tmp_path)
    (tmp_path / "v1/job/started.json").write_text("{}")
    (tmp_path / "v1/job/finished.json").unlink()
    (tmp_path / "v1/job/dreamt.json").write_text("{}")
    problems = schema.check(tmp_path)
    assert "v1/job/started.json: differs from twd/wire" in problems
    assert "v1/job/finished.json: missing" in problems
    assert "v1/job/dreamt.json: no longer generated" in problems
    assert any(problem.startswith("samples/v1/job/started.json: missing") for problem in problems)


def test_writing_mends_exactly_what_differs(tmp_path: Path) -> None:
    everything = schema.write(tmp_path)
    assert len(everything) == len(ROUTES) + 1
    (tmp_path / "v1/job/started.json").write_text("{}")
    (tmp_path / "v1/job/dreamt.json").write_text("{}")
    assert schema.write(tmp_path) == ["v1/job/dreamt.json", "v1/job/started.json"]
    assert schema.write(tmp_path) == []
