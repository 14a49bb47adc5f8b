"""Decides what the service manager is told: when questions can be answered, and when nobody mends what is wrong."""

from collections.abc import Sequence
from typing import Final

from twd.process.process_table import DONE, ProcessRow, StartPhase, hopeless

SETTLED: Final = (*DONE, StartPhase.MISSING)
"""A process in another stage is starting, or is being replaced by its supervisor."""
SERVERS: Final = ("speculator", "relay", "gate")
OK: Final = 200
NO_ANSWER: Final = 0
NAMED_MAX: Final = 3


def serves(rows: Sequence[ProcessRow]) -> bool:
    """Whether any process is there to answer questions; an agent alone has none."""
    return any(_is_server(row) for row in rows)


def can_answer(rows: Sequence[ProcessRow], ready: bool, api: int | None) -> bool:
    """Whether a question can be answered now.

    `ready`: the process table says that all works. `api`: the status of `/readyz`; None where there is no API.
    Without any model there are no questions: then it is enough that the API answers at all.
    """
    if not ready or api == NO_ANSWER:
        return False
    return api in (None, OK) or not serves(rows) or _some_are_missing(rows)


def stuck(rows: Sequence[ProcessRow], api: int | None) -> str:
    """Return why no question can be answered although nobody mends it; empty if all is well or is being mended."""
    silent = [row.name for row in rows if row.stage is StartPhase.SILENT]
    if silent:
        return f"{_listed(silent)} cannot be heard any more"
    if any(row.stage not in SETTLED for row in rows):
        return ""
    if api == NO_ANSWER:
        return "the API does not answer"
    if api in (None, OK) or not serves(rows) or _missing_servers(rows):
        return ""
    return f"the API says that it cannot answer (status {api})"


def _some_are_missing(rows: Sequence[ProcessRow]) -> bool:
    """Whether some models are missing and others work: the API then says no if the default one is missing."""
    return bool(_missing_servers(rows)) and any(row.stage in DONE for row in rows if _is_server(row))


def _missing_servers(rows: Sequence[ProcessRow]) -> list[str]:
    return [row.name for row in rows if _is_server(row) and row.stage is StartPhase.MISSING]


def status_words(rows: Sequence[ProcessRow], ready: bool, trouble: str = "") -> str:
    """Return the one line that `systemctl status` shows."""
    if trouble:
        return trouble
    if row := hopeless(rows):
        return f"{row.name} cannot start: {row.note}"
    moving = [row for row in rows if row.stage not in SETTLED]
    if moving:
        words = [f"{row.name} {_how(row)}" for row in moving[:NAMED_MAX]]
        more = f" and {len(moving) - NAMED_MAX} more" if len(moving) > NAMED_MAX else ""
        return f"{'mending' if ready else 'starting'}: {', '.join(words)}{more}"
    return _at_work(rows)


def _at_work(rows: Sequence[ProcessRow]) -> str:
    servers = [row for row in rows if _is_server(row) and row.stage in DONE]
    models = sorted({row.model for row in servers if row.model})
    missing = [row.name for row in rows if row.stage is StartPhase.MISSING]
    text = f"serves {_listed(models)}" if models else "works; no model is served" if _has_api(rows) else "works"
    return text + (f"; without {_listed(missing)}" if missing else "")


def _is_server(row: ProcessRow) -> bool:
    return row.name.split(".")[0] in SERVERS


def _has_api(rows: Sequence[ProcessRow]) -> bool:
    return any(row.name == "edge" for row in rows)


def _how(row: ProcessRow) -> str:
    return f"is {row.stage}" + (f" ({row.note})" if row.note else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
