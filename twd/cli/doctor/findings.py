"""What a check found: a verdict, the facts in words, and the exact command that mends it."""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Fix = Callable[[], None]


class Severity(enum.StrEnum):
    """How bad it is. Only `fail` makes the whole fail."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fix` mends it without asking; only safe things have one."""

    name: str
    verdict: Severity
    detail: str
    mend: str = ""
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class FindingSection:
    """Findings about one subject."""

    title: str
    findings: Sequence[Finding]


def good(name: str, detail: str) -> Finding:
    """All is well."""
    return Finding(name, Severity.PASS, detail)


def odd(name: str, detail: str, mend: str = "", fix: Fix | None = None) -> Finding:
    """It works, but not as it could."""
    return Finding(name, Severity.WARN, detail, mend, fix)


def bad(name: str, detail: str, mend: str = "", fix: Fix | None = None) -> Finding:
    """It does not work, or will not."""
    return Finding(name, Severity.FAIL, detail, mend, fix)


def skipped(name: str, detail: str, mend: str = "") -> Finding:
    """It could not be looked at now."""
    return Finding(name, Severity.SKIP, detail, mend)


def passed(sections: Iterable[FindingSection]) -> bool:
    """Whether nothing failed."""
    return all(finding.verdict is not Severity.FAIL for section in sections for finding in section.findings)


def fixable(sections: Iterable[FindingSection]) -> list[Finding]:
    """Findings that can be mended here and now."""
    return [finding for section in sections for finding in section.findings if finding.fix is not None]


def document(sections: Sequence[FindingSection], mended: Sequence[str]) -> dict[str, Any]:
    """For JSON."""
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
        "name": finding.name,
        "status": finding.verdict.value,
        "detail": finding.detail,
        "mend": finding.mend,
        "can_fix": finding.fix is not None,
    }
