"""Golden messages: what an earlier version wrote is read by every later one, to the last value."""

import json
from pathlib import Path
from typing import Any

import pytest

from twd.wire.base import Event
from twd.wire.codec import decode, encode
from twd.wire.routes import ROUTES
from twd.wire.schema import schema_path

FOLDER = Path(__file__).parents[2] / "bus_schemas"
SAMPLES = sorted((FOLDER / "samples").rglob("*.json"))


def contains(whole: Any, part: Any) -> bool:
    """Whether everything in `part` is in `whole`, too."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    return bool(whole == part)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_nothing_in_a_sample_is_lost(path: Path) -> None:
    data = path.read_bytes()
    event = decode(data)
    assert isinstance(event, Event), event
    assert contains(json.loads(encode(event)), json.loads(data))


def test_every_event_has_a_sample_of_its_own_type() -> None:
    for route in ROUTES:
        sample = json.loads((FOLDER / "samples" / schema_path(route)).read_bytes())
        assert sample["type"] == route.tag
