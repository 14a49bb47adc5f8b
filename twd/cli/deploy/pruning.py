"""Has a machine remove its old versions when the new one works; a failure of that is told, and takes nothing back."""

from typing import Final

from twd.cli.deploy.looking import RemoteFacts
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.scripts import prune_script
from twd.cli.deploy.ssh import RemoteShell, SshFailed
from twd.setup.versions.folder import HIDDEN

PRUNE_S: Final = 300.0


def too_many(facts: RemoteFacts, version: str, keep: int) -> bool:
    """Whether more versions lie there, with this one, than are kept; or the rest of one that was being removed."""
    there = {*facts.versions, version}
    return any(name.startswith(HIDDEN) for name in there) or sum(not name.startswith(".") for name in there) > keep


async def prune_there(shell: RemoteShell, facts: RemoteFacts, keep: int, report: HostReport) -> None:
    """Remove what is not needed there any more."""
    with report.step("old versions") as step:
        try:
            result = await shell.run(prune_script(facts, keep), PRUNE_S)
        except SshFailed as error:
            step.state, step.note = "left", str(error)
            return
        lines = (result.errors if result.code else result.said).strip().splitlines()
        step.note = "; ".join(lines[-3:])[:600]
        if result.code:
            step.state = "left"
        elif not any(line.startswith("removed ") for line in lines):
            step.state = "unchanged"
