"""What this machine may run: a machine that joined has keys for some roles alone."""

from collections.abc import Iterable
from pathlib import Path

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.process.supervisor import ProcessSpec
from twd.settings.identity import KEYS
from twd.settings.model import Settings


def check_keys(settings: Settings, specs: Iterable[ProcessSpec]) -> None:
    """Refuse here what the broker would not let in again and again; raises CommandError, which says what may run."""
    folder = Path(settings.bus.nkey_dir)
    if folder != settings.home_dir / KEYS:
        return
    services = dict.fromkeys(spec.name.split(".")[0] for spec in specs if not spec.foreign)
    may = [name for name in services if (folder / f"{name}.nk").exists()]
    if missing := [name for name in services if name not in may]:
        text = f"this machine joined {settings.bus.url} without the right to run {', '.join(missing)}"
        instead = f"start `twd up {' '.join(may)}`, or " if may else ""
        raise CommandError(
            ExitCode.CONFIG, f"{text}: {instead}join with a token that is for more (twd token add --role)"
        )
