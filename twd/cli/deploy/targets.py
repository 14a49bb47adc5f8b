"""Which machines are meant: a host as ssh knows it, with a user, and what the settings say of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.model import Settings, WorkerConfig

HOST: Final = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]-]{0,252}")
USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
HOSTS_MAX: Final = 256


@dataclass(frozen=True)
class DeployTarget:
    """One machine."""

    host: str
    user: str = ""
    model_dir: str = ""
    """Its folder with models, of the settings."""


def targets_of(settings: Settings, given: Sequence[str], ssh_user: str) -> list[DeployTarget]:
    """Return the machines named on the command line, each once; without any, those under `pool.workers`.

    Raises CommandError for a name that ssh would take for an option, or a shell for a command.
    """
    workers = {worker.host: worker for worker in settings.pool.workers}
    names = list(dict.fromkeys(given or workers))
    if not names:
        raise CommandError(ExitCode.USAGE, "name a host, as ssh knows it; or list machines under pool.workers")
    if len(names) > HOSTS_MAX:
        raise CommandError(ExitCode.USAGE, f"{len(names)} hosts are too many at once; at most {HOSTS_MAX}")
    return [_target(name, ssh_user, workers) for name in names]


def _target(name: str, ssh_user: str, workers: dict[str, WorkerConfig]) -> DeployTarget:
    user, at, host = name.rpartition("@")
    if (at and not user) or not HOST.fullmatch(host):
        raise CommandError(ExitCode.USAGE, f"{name!r} is no host for ssh: write HOST or USER@HOST, as in its config")
    worker = workers.get(host)
    user = user or ssh_user or (worker.ssh_user if worker else "")
    if user and not USER.fullmatch(user):
        raise CommandError(ExitCode.USAGE, f"{user!r} is no user name for ssh")
    return DeployTarget(host, user, worker.model_dir if worker else "")
