"""By which name ssh reaches each machine: what `twd deploy` knew, for `twd upgrade`."""

from pathlib import Path
from typing import Final

import msgspec

from twd.cli.deploy.targets import DeployTarget
from twd.private_file import write_private
from twd.wire.reading import NONSENSE

FILE_NAME: Final = "deployed.json"


class DeployedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that `twd deploy` put twd on."""

    host: str
    user: str = ""
    system_wide: bool = False


class DeployedMachines:
    """The file with all of them; without it each machine is looked for under its own name."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE_NAME

    def load(self) -> dict[str, DeployedMachine]:
        """Return the machines by their names on the bus. A file that cannot be read is like none."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, DeployedMachine])
        except (OSError, *NONSENSE):
            return {}

    def keep(self, node: str, target: DeployTarget, system_wide: bool) -> None:
        """Note how a machine was reached."""
        machines = self.load()
        machines[node] = DeployedMachine(host=target.host, user=target.user, system_wide=system_wide)
        write_private(self._path, msgspec.json.format(msgspec.json.encode(machines), indent=2) + b"\n")
