"""The dashboard and the alert rules speak of metrics, labels and states that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from twd.metrics.families import FAMILIES, MetricFamily, MetricKind
from twd.process.process_table import StartPhase

FOLDER = Path(__file__).parents[2] / "contrib" / "grafana"
BY_NAME = {family.name: family for family in FAMILIES}
SERIES = {
    f"{family.name}{suffix}": family
    for family in FAMILIES
    for suffix in (("_bucket", "_sum", "_count") if family.kind is MetricKind.HISTOGRAM else ("",))
}
OUTCOMES = {"finished", "failed", "cancelled"}


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return document


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (
        variable["query"]["query"] for variable in dashboard()["templating"]["list"] if variable["name"] == "model"
    )
    yield from (rule["expr"] for rule in rules())


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_metrics_and_labels_exist(expression: str) -> None:
    used = re.findall(r"\b(twd_\w+)(?:\{([^}]*)\})?", expression)
    assert used or "up{" in expression
    for name, matchers in used:
        assert name in SERIES, f"there is no {name}"
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            assert label in labels_of(SERIES[name]), f"{name} has no label {label}"
            assert label != "state" or value in set(StartPhase)
            assert label != "outcome" or value in OUTCOMES
    for grouping in re.findall(r"by \(([^)]*)\)", expression):
        for label in grouping.replace(" ", "").split(","):
            assert any(label in labels_of(SERIES[name]) for name, _ in used), f"nothing here has a label {label}"


def labels_of(family: MetricFamily) -> set[str]:
    return {*family.labels, *(("le",) if family.kind is MetricKind.HISTOGRAM else ())}


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_alerts_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) > 8
    for rule in rules():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
        named = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        assert all(re.search(rf"\b{label}\b", rule["expr"]) or single(rule, label) for label in named)


def single(rule: dict[str, Any], label: str) -> bool:
    """Whether a rule without grouping keeps the label, since its metrics have it."""
    names = re.findall(r"\btwd_\w+", rule["expr"])
    return "by (" not in rule["expr"] and all(label in SERIES[name].labels for name in names)


def test_every_metric_is_shown_or_of_use_elsewhere() -> None:
    shown = {SERIES[name].name for expression in expressions() for name in re.findall(r"\btwd_\w+", expression)}
    assert BY_NAME.keys() - shown == {"twd_build_info", "twd_service_exits_total", "twd_service_starts_total"}
