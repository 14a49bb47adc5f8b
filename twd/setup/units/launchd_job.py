"""Writes a job of launchd (macOS) from a plan. No I/O."""

import plistlib
from typing import Any, Final

from twd.setup.units.plan import LABELS, SERVICE_USER, UnitPlan

STOP_S: Final = 90
FILES_MAX: Final = 65536


def launchd_job(plan: UnitPlan, log: str) -> str:
    """Return the text of the property list. launchd has no credentials: secrets are read from their folder."""
    plan.check()
    folder = {"CREDENTIALS_DIRECTORY": _folder_of(plan)} if plan.credentials else {}
    job: dict[str, Any] = {
        "Label": LABELS[plan.name],
        "ProgramArguments": [plan.program, *plan.arguments],
        "EnvironmentVariables": {"TWD_HOME": plan.home, **plan.environment, **folder},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": STOP_S,
        "ProcessType": "Interactive",
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": FILES_MAX},
    }
    if plan.system:
        job |= {"UserName": SERVICE_USER, "GroupName": SERVICE_USER}
    return plistlib.dumps(job, sort_keys=False).decode()


def _folder_of(plan: UnitPlan) -> str:
    return next(iter(plan.credentials.values())).rpartition("/")[0]
