"""The result of a check: a severity, the facts in words, and the command that repairs it."""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twd.cli.doctor.finding_ids import FindingId

Fix = Callable[[], None]


class Severity(enum.StrEnum):
    """The severity of a finding. Only `fail` makes the whole result fail."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `fix` repairs it without a question; only safe repairs have one."""

    name: str
    verdict: Severity
    detail: str
    mend: str = ""
    fix: Fix | None = None
    id: FindingId | None = None
    """Names the kind of problem; None where there is none."""


@dataclass(frozen=True, slots=True)
class FindingSection:
    """Findings about one subject."""

    title: str
    findings: Sequence[Finding]


def good(name: str, detail: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(name, Severity.PASS, detail)


def odd(id: FindingId, name: str, detail: str, mend: str = "", fix: Fix | None = None) -> Finding:
    """Return a finding that works, but could be better."""
    return Finding(name, Severity.WARN, detail, mend, fix, id)


def bad(id: FindingId, name: str, detail: str, mend: str = "", fix: Fix | None = None) -> Finding:
    """Return a finding that does not work or will not."""
    return Finding(name, Severity.FAIL, detail, mend, fix, id)


def skipped(name: str, detail: str, mend: str = "") -> Finding:
    """Return a finding that could not be checked now."""
    return Finding(name, Severity.SKIP, detail, mend)


def passed(sections: Iterable[FindingSection]) -> bool:
    """Return whether no finding failed."""
    return all(finding.verdict is not Severity.FAIL for section in sections for finding in section.findings)


def fixable(sections: Iterable[FindingSection]) -> list[Finding]:
    """Return the findings that can be repaired automatically."""
    return [finding for section in sections for finding in section.findings if finding.fix is not None]


def document(sections: Sequence[FindingSection], mended: Sequence[str]) -> dict[str, Any]:
    """Return the findings for JSON."""
    return {
        "passed": passed(sections),
        "mended": list(mended),
        "sections": [
            {"title": section.title, "results": [_result(finding) for finding in section.findings]}
            for section in sections
            if section.findings
        ],
    }


def _result(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id or "",
        "name": finding.name,
        "status": finding.verdict.value,
        "detail": finding.detail,
        "mend": finding.mend,
        "can_fix": finding.fix is not None,
    }
