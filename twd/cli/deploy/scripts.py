"""The scripts that run on the other machine. None holds a secret: those come over standard input."""

import base64
import re
import shlex
from importlib.resources import files
from typing import Final

from twd.cli.deploy.interpreter import SentPython
from twd.cli.deploy.looking import SYSTEM_BASE, RemoteFacts

_INSTALL: Final = """
set -e
umask 022
mkdir -p @BASE@
@PYTHON@ -c "$(echo @SOURCE@ | base64 -d)" @BASE@ @NAME@
"""
_CLEAN: Final = """
clean() {
  for old in "$1"/.new-*; do
    pid=${old##*.new-}
    if [ -d "$old" ] && { ! kill -0 "$pid" || grep -q '^State:.Z' "/proc/$pid/status"; } 2>/dev/null; then
      rm -rf "$old"
    fi
  done
}
"""
"""Folders go whose process was killed while it filled them; it may have ended and not be reaped yet."""
_PYTHON: Final = """
set -e
umask 022
mkdir -p @BASE@/pythons
clean @BASE@/pythons
new=@BASE@/pythons/.new-$$
mkdir "$new"
trap 'rm -rf "$new"' EXIT
tar -xzf - -C "$new"
for lib in "$new"/lib/*.so*; do
  name=${lib##*/}
  for place in /lib /usr/lib /lib64 /usr/lib64 /lib/*-linux-gnu* /usr/lib/*-linux-gnu*; do
    case "$name" in libpython*) ;; *) [ ! -e "$place/$name" ] || rm -f "$lib";; esac
  done
done
"$new"/bin/@PROGRAM@ -I -c 'import ctypes, hashlib, ssl, sqlite3, venv, zlib'
[ -d @BASE@/pythons/@NAME@ ] || mv "$new" @BASE@/pythons/@NAME@
"""
"""A library that the system there has stays its own; the others lie beside the Python."""
_LINK: Final = """
link() {
  if [ -z "$2" ]; then rm -f @BASE@/"$1"; return; fi
  ln -sfn "versions/$2" @BASE@/".$1.new"
  mv -T @BASE@/".$1.new" @BASE@/"$1" 2>/dev/null || { rm -f @BASE@/"$1"; mv @BASE@/".$1.new" @BASE@/"$1"; }
}
"""
"""A link to a version changes in one step; an empty name removes it."""
_SWITCH: Final = """
set -e
[ -z @OLD@ ] || link previous @OLD@
link current @NAME@
[ -d @BASE@/versions/@NAME@ ] || { echo @NAME@ 'was removed meanwhile: run the same command again' >&2; exit 1; }
"""
"""Whoever removes old versions moves one away first and looks at the links then: one of the two sees the other."""
_ON_PATH: Final = """
if [ ! -e @BIN@/twd ] && [ ! -L @BIN@/twd ]; then mkdir -p @BIN@ && ln -s @BASE@/current/bin/twd @BIN@/twd; fi
"""
_SETTINGS: Final = """
set -e
umask 077
mkdir -p @STATE@
cat > @STATE@/config.yaml.new
mv @STATE@/config.yaml.new @STATE@/config.yaml
"""
_TWD: Final = """
export TWD_HOME=@STATE@
cd @STATE@
exec @BASE@/current/bin/twd """
_TAKE_BACK: Final = """
link current @OLD@
link previous @BEFORE@
"""
_DROP: Final = """
for link in current previous; do
  [ "$(basename "$(readlink @BASE@/$link)")" = @NAME@ ] && exit 0
done
rm -rf @BASE@/versions/@NAME@
"""
_REMOVE: Final = """
rm -rf @BASE@/versions/@NAME@
clean @BASE@/versions
if [ -z @OLD@ ]; then
  [ "$(readlink @BIN@/twd)" = @BASE@/current/bin/twd ] && rm -f @BIN@/twd
  rmdir @BASE@/versions @BASE@ 2>/dev/null
fi
true
"""


def _filled(script: str, facts: RemoteFacts, **more: str) -> str:
    words = {"BASE": facts.base, "STATE": facts.state, "OLD": facts.current, "BEFORE": facts.previous, **more}
    words["BIN"] = "/usr/local/bin" if facts.base == SYSTEM_BASE else f"{facts.home}/.local/bin"
    return re.sub(r"@([A-Z]+)@", lambda found: shlex.quote(words[found[1]]), script)


def install_script(facts: RemoteFacts, python: str, name: str) -> str:
    """Install the wheels of standard input as the version `name`, and make it the current one."""
    return send_script(facts, python, name) + switch_script(facts, name)


def python_script(facts: RemoteFacts, python: SentPython) -> str:
    """Unpack the Python of standard input."""
    program = f"python{python.version[0]}.{python.version[1]}"
    return _filled(_CLEAN + _PYTHON, facts, NAME=python.name, PROGRAM=program)


def python_there(facts: RemoteFacts, python: SentPython) -> str:
    """Return the path of a Python that was sent."""
    return f"{facts.base}/pythons/{python.name}/bin/python{python.version[0]}.{python.version[1]}"


def forget_python_script(facts: RemoteFacts, python: SentPython) -> str:
    """Remove a Python that was sent."""
    words = "rm -rf @BASE@/pythons/@NAME@\nrmdir @BASE@/pythons @BASE@ 2>/dev/null\ntrue\n"
    return _filled(words, facts, NAME=python.name)


def send_script(facts: RemoteFacts, python: str, name: str) -> str:
    """Install the wheels of standard input as the version `name`, beside the one in use."""
    source = base64.b64encode(files("twd.cli.deploy").joinpath("unpack.py").read_bytes()).decode()
    return _filled(_INSTALL, facts, PYTHON=python, NAME=name, SOURCE=source)


def there_script(facts: RemoteFacts, name: str) -> str:
    """Succeed where the version `name` is there already."""
    return _filled("test -d @BASE@/versions/@NAME@", facts, NAME=name)


def drop_script(facts: RemoteFacts, name: str) -> str:
    """Remove a version that is not in use and was not before."""
    return _filled(_DROP, facts, NAME=name)


def switch_script(facts: RemoteFacts, name: str) -> str:
    """Make a version that is there the current one."""
    return _filled(_LINK + _SWITCH + _ON_PATH, facts, NAME=name)


def settings_script(facts: RemoteFacts) -> str:
    """Write standard input as the settings."""
    return _filled(_SETTINGS, facts)


def twd_script(facts: RemoteFacts, *arguments: str) -> str:
    """Run twd there."""
    return _filled(_TWD, facts) + shlex.join(arguments) + "\n"


def forget_script(facts: RemoteFacts, everything: bool) -> str:
    """Remove the settings that this run wrote; `everything`: the state folder, which was not there before."""
    return _filled("rm -rf @STATE@\n" if everything else "rm -f @STATE@/config.yaml @STATE@/config.yaml.new\n", facts)


def take_back_script(facts: RemoteFacts, name: str = "") -> str:
    """Make the version from before the current one again, and remove `name`, if it is given."""
    return _filled(_LINK + _TAKE_BACK + (_CLEAN + _REMOVE if name else ""), facts, NAME=name)


def prune_script(facts: RemoteFacts, keep: int) -> str:
    """Remove the versions there that nobody needs any more."""
    return twd_script(facts, "upgrade", "--prune", f"--keep={keep}")


def service_script(facts: RemoteFacts, system_wide: bool, verb: str = "install") -> str:
    """Make the agent a service there, or no longer: it starts with the machine, and is watched."""
    return twd_script(facts, "service", verb, "--agent", "--system" if system_wide else "--user")


def start_script(facts: RemoteFacts) -> str:
    """Start the agent there, so that it goes on when the connection ends."""
    return twd_script(facts, "up", "-d", "agent", "--timeout", "60")
