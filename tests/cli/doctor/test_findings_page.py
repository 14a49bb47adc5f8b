"""Every finding has its section in docs/findings.md, and every section its finding."""

import ast
import re

from tests.rules.source import PACKAGE, ROOT, parsed
from twd.cli.doctor.finding_ids import FindingId

PAGE = (ROOT / "docs/findings.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_every_finding_has_a_section_and_every_section_a_finding() -> None:
    assert set(SECTIONS) == {one.value for one in FindingId}


def test_every_section_says_symptom_cause_and_command() -> None:
    for name, text in SECTIONS.items():
        assert re.findall(r"^- (\w+): \S", text, re.MULTILINE) == ["Symptom", "Cause", "Command"], name


def test_every_name_is_used_where_something_is_found() -> None:
    with_findings = (path for path in (PACKAGE / "cli").rglob("*.py") if "FindingId." in path.read_text("utf-8"))
    used = {
        node.attr
        for tree in parsed(with_findings).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "FindingId"
    }
    assert used == {one.name for one in FindingId}
