"""Where a model is copied to over ssh, by which method, and with which command lines. Everything is quoted."""

import re
import shlex
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

Method = Literal["auto", "rsync", "swarm"]
SWARM_FROM: Final = 1 << 30
"""Files of at least so many bytes go by swarm where that is possible."""
ALIVE: Final = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=4")
"""No question waits for an answer, and a machine that falls silent ends the copy."""
_TARGET: Final = re.compile(r"((?:[^@:\[\]\s]+@)?(?:\[[0-9A-Fa-f:.%\w]+\]|[^@:\[\]\s/]+)):(.+)", re.DOTALL)


class SshTarget(NamedTuple):
    """A file or folder on a machine that is reached by ssh. `host` may name a user."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"

    @property
    def address(self) -> str:
        """The host as ssh wants it: without brackets."""
        return self.host.replace("[", "").replace("]", "")

    @property
    def shell_path(self) -> str:
        """The path for a shell there; only a leading ~ keeps its meaning."""
        if self.path == "~":
            return '"$HOME"'
        if self.path.startswith("~/"):
            return f'"$HOME"/{shlex.quote(self.path[2:])}' if self.path[2:] else '"$HOME"'
        return shlex.quote(f"./{self.path}" if self.path.startswith("-") else self.path)

    @property
    def plain_path(self) -> str:
        """The path for programs that send it without a shell; it begins at the home folder there."""
        path = self.path.removeprefix("~").removeprefix("/") if self.path.startswith("~") else self.path
        return f"./{path}" if not path or path.startswith("-") else path


class SshProbe(NamedTuple):
    """What a machine told of itself."""

    has_twd: bool
    has_rsync: bool
    sees_us_as: str
    """The address of this machine, as that one sees it."""


def parse_target(text: str) -> SshTarget:
    """Read HOST:PATH; raises CommandError for anything else."""
    found = _TARGET.fullmatch(text)
    if found is None or found[1].startswith("-") or "\n" in text:
        raise CommandError(ExitCode.USAGE, f"{text!r} is no target; write it as HOST:PATH, like user@box:~/models")
    return SshTarget(found[1], found[2])


def ssh_options(more: Sequence[str]) -> list[str]:
    """Return the options of ssh and scp."""
    return [part for option in (*ALIVE, *more) for part in ("-o", option)]


def ssh_argv(target: SshTarget, options: Sequence[str], script: str) -> list[str]:
    """Return the command line that runs a script of the shell there."""
    return ["ssh", *ssh_options(options), "--", target.address, script]


def probe_script() -> str:
    """Return the script whose output `read_probe` reads."""
    looks = (f"command -v {name} >/dev/null 2>&1 && echo {name}" for name in ("twd", "rsync"))
    return "; ".join(['PATH="$PATH:$HOME/.local/bin"', *looks, 'echo "from=${SSH_CONNECTION%% *}"'])


def read_probe(text: str) -> SshProbe:
    """Read what the script wrote."""
    lines = text.splitlines()
    address = next((line.removeprefix("from=") for line in lines if line.startswith("from=")), "")
    return SshProbe("twd" in lines, "rsync" in lines, address)


def swarm_script(target: SshTarget, url: str, root: str) -> str:
    """Return the script that pulls there. The token comes on its standard input, so that nobody reads it in a list of
    processes."""
    pull = shlex.join(["--manifest", f"{url}/v1/swarm/{root}/manifest", "--peer", url, "--json"])
    token = "IFS= read -r TWD_SWARM_TOKEN && export TWD_SWARM_TOKEN"
    return f'PATH="$PATH:$HOME/.local/bin"; {token} && exec twd swarm pull {target.shell_path} {pull}'


def rsync_argv(files: Sequence[str], target: SshTarget, options: Sequence[str]) -> list[str]:
    """Return the command line of rsync; -s keeps the path from a shell there."""
    shell = shlex.join(["ssh", *ssh_options(options)])
    return ["rsync", "-s", "--times", "--partial", "-e", shell, "--", *files, f"{target.host}:{target.plain_path}"]


def scp_argv(files: Sequence[str], target: SshTarget, options: Sequence[str]) -> list[str]:
    """Return the command line of scp; -s takes SFTP, which needs no shell there."""
    return ["scp", "-s", "-q", "-p", *ssh_options(options), "--", *files, f"{target.host}:{target.plain_path}"]


def choose(method: Method, size: int, probe: SshProbe, rsync_here: bool) -> str:
    """Return swarm, rsync or scp; raises CommandError where the wanted method is impossible."""
    if method == "swarm" and not probe.has_twd:
        text = "twd is not on the PATH there; install it, or take --method rsync"
        raise CommandError(ExitCode.CANNOT_START, text)
    if method == "swarm" or (method == "auto" and size >= SWARM_FROM and probe.has_twd):
        return "swarm"
    return "rsync" if rsync_here and probe.has_rsync else "scp"
