"""Generate `bus_schemas/` from the vocabulary, and say where the folder differs from it."""

import json
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from twd.wire.codec import Rejected, decode
from twd.wire.failures import ADVICE
from twd.wire.routes import ROUTES, Delivery, Route

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_path(route: Route) -> str:
    """`twd.v1.job.started` is kept in `v1/job/started.json`."""
    _, version, domain, verb = route.tag.split(".")
    return f"{version}/{domain}/{verb}.json"


def render_schema(route: Route) -> dict[str, Any]:
    """One event's schema, standing alone: what it refers to is included under `$defs`."""
    schema = msgspec.json.schema(route.event)
    name = schema.pop("$ref").rsplit("/", 1)[-1]
    definitions: dict[str, Any] = schema["$defs"]
    for one in definitions.values():
        if "description" in one:
            one["description"] = cleandoc(one["description"])  # Python 3.13 gives docstrings without their indents
    body: dict[str, Any] = definitions.pop(name)
    body["$schema"] = DIALECT
    body["$id"] = route.tag
    if definitions:
        body["$defs"] = definitions
    return body


def _row(route: Route) -> dict[str, Any]:
    return {
        "class": route.event.__name__,
        "schema": schema_path(route),
        "subject": _subject(route),
        "delivery": route.delivery.value,
        "queue_group": route.group,
        "when_full": route.when_full.value,
    }


def render_index() -> dict[str, Any]:
    """The table of routes and failure codes for readers in other languages."""
    return {
        "events": {route.tag: _row(route) for route in ROUTES},
        "failures": {
            code.value: {"status": advice.status, "advice": advice.advice, "retry": advice.retry}
            for code, advice in ADVICE.items()
        },
    }


def _subject(route: Route) -> str:
    """Who publishes it is part of a subject; answers go to the inbox of who asked."""
    if route.delivery is Delivery.REPLY:
        return "_INBOX.{role}.{machine}.{...}"
    keys = [f"{{{key}}}" for key in route.keys]
    to = [f"{{{route.to}: role}}", "{machine}", "{copy}"] if route.to else []
    return ".".join([route.tag, "{source: role}", "{machine}", "{copy}", *keys, *to])


def render_all() -> dict[str, str]:
    """Every generated file of the folder: relative path to text."""
    files = {schema_path(route): _text(render_schema(route)) for route in ROUTES}
    files["index.json"] = _text(render_index())
    return files


def write(folder: Path) -> list[str]:
    """Write what differs and remove what is no longer generated; returns the paths touched."""
    wanted = render_all()
    touched = []
    for stale in _generated(folder) - wanted.keys():
        (folder / stale).unlink()
        touched.append(stale)
    for path, text in wanted.items():
        target = folder / path
        if not target.exists() or target.read_text("utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
            touched.append(path)
    return sorted(touched)


def check(folder: Path) -> list[str]:
    """Say in words where the folder and the vocabulary differ, samples included."""
    wanted = render_all()
    problems = [f"{path}: no longer generated" for path in sorted(_generated(folder) - wanted.keys())]
    for path, text in wanted.items():
        target = folder / path
        if not target.exists():
            problems.append(f"{path}: missing")
        elif target.read_text("utf-8") != text:
            problems.append(f"{path}: differs from twd/wire")
    return problems + check_samples(folder)


def check_samples(folder: Path) -> list[str]:
    """Every golden message must still decode, and every event must have one."""
    problems = []
    samples = folder / "samples"
    for route in ROUTES:
        sample = samples / schema_path(route)
        if not sample.exists():
            problems.append(f"samples/{schema_path(route)}: missing: keep one golden message of each event")
    for sample in sorted(samples.rglob("*.json")):
        decoded = decode(sample.read_bytes())
        if isinstance(decoded, Rejected):
            problems.append(f"samples/{sample.relative_to(samples)}: {decoded.reason}")
    return problems


def _generated(folder: Path) -> set[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))
    return {path for path in paths if not path.startswith("samples/")}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
