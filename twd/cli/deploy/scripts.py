"""The scripts that run on the other machine. None holds a secret: those come over standard input."""

import base64
import shlex
from importlib.resources import files
from typing import Final

from twd.cli.deploy.looking import RemoteFacts

NOT_OVERWRITTEN: Final = 7
"""The exit code where a file is in the way that somebody else wrote."""
_INSTALL: Final = """
set -e
umask 022
mkdir -p BASE
PYTHON -c "$(echo SOURCE | base64 -d)" BASE NAME
"""
_SWITCH: Final = """
set -e
ln -sfn versions/NAME BASE/.current.new
mv -T BASE/.current.new BASE/current 2>/dev/null || { rm -f BASE/current; mv BASE/.current.new BASE/current; }
"""
_ON_PATH: Final = """
bin="$HOME/.local/bin"
if [ ! -e "$bin/twd" ] && [ ! -L "$bin/twd" ]; then mkdir -p "$bin" && ln -s BASE/current/bin/twd "$bin/twd"; fi
"""
_SETTINGS: Final = """
set -e
umask 077
mkdir -p STATE
cat > STATE/config.yaml.new
mv STATE/config.yaml.new STATE/config.yaml
"""
_TWD: Final = """
export TWD_HOME=STATE
cd STATE
exec BASE/current/bin/twd ARGUMENTS
"""
_TAKE_BACK: Final = """
rm -rf BASE/versions/NAME
if [ -n OLD ]; then ln -sfn versions/OLD BASE/.current.new && mv -T BASE/.current.new BASE/current
else
  rm -f BASE/current
  [ "$(readlink "$HOME/.local/bin/twd")" = BASE/current/bin/twd ] && rm -f "$HOME/.local/bin/twd"
  rmdir BASE/versions BASE 2>/dev/null
fi
true
"""


def _filled(script: str, facts: RemoteFacts, **more: str) -> str:
    words = {"BASE": facts.base, "STATE": facts.state, **more}
    for word, value in words.items():
        script = script.replace(word, shlex.quote(value))
    return script


def install_script(facts: RemoteFacts, python: str, name: str) -> str:
    """Install the wheels of standard input as the version `name`, and make it the current one."""
    source = base64.b64encode(files("twd.cli.deploy").joinpath("unpack.py").read_bytes()).decode()
    install = _filled(_INSTALL, facts, PYTHON=python, NAME=name, SOURCE=source)
    return install + switch_script(facts, name)


def switch_script(facts: RemoteFacts, name: str) -> str:
    """Make a version that is there the current one."""
    return _filled(_SWITCH, facts, NAME=name) + _filled(_ON_PATH, facts)


def settings_script(facts: RemoteFacts) -> str:
    """Write standard input as the settings."""
    return _filled(_SETTINGS, facts)


def twd_script(facts: RemoteFacts, *arguments: str) -> str:
    """Run twd there."""
    return _filled(_TWD, facts).replace("ARGUMENTS", shlex.join(arguments))


def forget_script(facts: RemoteFacts, everything: bool) -> str:
    """Remove the settings that this run wrote; `everything`: the state folder, which was not there before."""
    return _filled("rm -rf STATE\n" if everything else "rm -f STATE/config.yaml STATE/config.yaml.new\n", facts)


def take_back_script(facts: RemoteFacts, name: str) -> str:
    """Remove a version, and make the one before it the current one again."""
    return _filled(_TAKE_BACK, facts, NAME=name, OLD=facts.current)


def start_script(facts: RemoteFacts) -> str:
    """Start the agent there, so that it goes on when the connection ends."""
    return twd_script(facts, "up", "-d", "agent", "--timeout", "60")
