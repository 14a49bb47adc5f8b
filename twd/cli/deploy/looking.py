"""What a machine is, before anything is changed there; and what keeps twd from running on it."""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from twd.settings.identity import Identity
from twd.wire.reading import read_as

CLOCK_TOLD_S: Final = 60
SYSTEM_BASE: Final = "/opt/twd"
ROOM_FACTOR: Final = 3
"""Free disk that is wanted, as a multiple of what is sent: the files, and the bytes that Python makes of them."""
_OTHER_PYTHONS: Final = "python3 python3.14 python3.13 python3.12 python3.11"

SCRIPT: Final = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
set -- $(uname -sm)
say system "$1"
say machine "$2"
say host "$(hostname 2>/dev/null || uname -n)"
say uid "$(id -u)"
say home "$HOME"
say time "$(date +%s)"
say libc "$(getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1 | head -n 1)"
say flags "$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null)"
say compiler "$(command -v c++ || command -v g++ || command -v clang++)"
[ ! -d /run/systemd/system ] || say systemd yes
if command -v nvidia-smi >/dev/null || [ -e /dev/kfd ]; then
  say cards "$( (nvidia-smi -L 2>/dev/null; ls /dev/kfd 2>/dev/null) | head -n 16 | tr '\n' ';')"
fi
base="@BASE@"; state="@STATE@"
current=$(readlink "$base/current")
if [ "$current" = "versions/@VERSION@" ] && [ -x "$base/current/bin/python3" ]; then
  say python "@WANTED@ $base/current/bin/python3"
else
  for name in @PYTHONS@ "$base"/pythons/python-*/bin/python3.*; do
    path=$(command -v "$name") || continue
    seen=$("$path" -c 'import sys, venv; print(*sys.version_info[:2], sys.executable)' 2>/dev/null)
    say python "$seen"
    case "$seen" in "@WANTED@ "*) break;; esac
  done
fi
say base "$base"
say state "$state"
[ ! -e "$state" ] || say state_there yes
there="$base"; while [ ! -d "$there" ]; do there=$(dirname "$there"); done
[ ! -w "$there" ] || say writable yes
df -Pk "$there" | {
  read -r line
  read -r device size used free share disk
  say free_kb "$free"
  while read -r device place kind options rest; do
    [ "$place" != "$disk" ] || mounted=$options
  done 2>/dev/null < /proc/mounts
  say mount "$mounted"
}
say current "$current"
say previous "$(readlink "$base/previous")"
if [ -d "$base/versions" ]; then set -- $(ls -A "$base/versions"); say versions "$*"; fi
if [ -e "$state/joined.json" ]; then set -- $(base64 < "$state/joined.json"); say joined "$*"; fi
if [ -e "$state/config.yaml" ]; then
  say config "$(cksum < "$state/config.yaml")"
  read -r line < "$state/config.yaml"
  case "$line" in *'twd deploy'*) say ours 1;; esac
fi
"""
"""Each program that it starts is a part of what the same command costs a second time: it starts few."""


@dataclass(frozen=True)
class RemoteFacts:
    """One machine as the script saw it."""

    system: str = ""
    machine: str = ""
    host: str = ""
    uid: int = -1
    home: str = ""
    time: int = 0
    libc: str = ""
    flags: frozenset[str] = frozenset()
    compiler: str = ""
    systemd: bool = False
    cards: tuple[str, ...] = ()
    pythons: tuple[tuple[int, int, str], ...] = ()
    base: str = ""
    state: str = ""
    state_there: bool = False
    writable: bool = False
    free_bytes: int = 0
    mount: frozenset[str] = frozenset()
    current: str = ""
    """The version that is there: the folder's name."""
    previous: str = ""
    """The one before it."""
    versions: tuple[str, ...] = ()
    """All that lies beside them; a name that begins with a dot is one that is made or removed."""
    identity: Identity | None = None
    config_sum: str = ""
    config_ours: bool = False

    def python(self, version: tuple[int, int]) -> str:
        """Return the path of a Python of this version, or nothing."""
        return next((path for major, minor, path in self.pythons if (major, minor) == version), "")


@dataclass(frozen=True)
class BundleNeeds:
    """What a set of wheels needs of a machine."""

    system: str
    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int]
    flags: frozenset[str]
    """Features of the processor that the engine was built for."""
    size: int


def look_script(system_wide: bool, python: tuple[int, int], version: str = "") -> str:
    """Return the script that looks at a machine, until it has found this Python; it changes nothing.

    Where `version` is in use no Python is started: it has one of its own.
    """
    major, minor = python
    pythons = f"python{major}.{minor} {_OTHER_PYTHONS}"
    base = SYSTEM_BASE if system_wide else "$HOME/.local/share/twd"
    state = "/var/lib/twd" if system_wide else "${TWD_HOME:-$HOME/.twd}"
    script = SCRIPT.replace("@PYTHONS@", pythons).replace("@WANTED@", f"{major} {minor}")
    script = script.replace("@VERSION@", version)
    return script.replace("@BASE@", base).replace("@STATE@", state)


def read_facts(said: str) -> RemoteFacts:
    """Read what the script said; what is missing or makes no sense is left out."""
    lines = [line.partition("=") for line in said.splitlines()]
    told = {key: value.strip() for key, _, value in lines}
    pythons = [found for key, _, value in lines if key == "python" and (found := _python(value))]
    return RemoteFacts(
        system=told.get("system", ""),
        machine=told.get("machine", ""),
        host=told.get("host", ""),
        uid=_number(told.get("uid", ""), -1),
        home=told.get("home", ""),
        time=_number(told.get("time", ""), 0),
        libc=told.get("libc", ""),
        flags=frozenset(told.get("flags", "").rpartition(":")[2].split()),
        compiler=told.get("compiler", ""),
        systemd=told.get("systemd") == "yes",
        cards=tuple(filter(None, told.get("cards", "").split(";"))),
        pythons=tuple(dict.fromkeys(pythons)),
        base=told.get("base", ""),
        state=told.get("state", ""),
        state_there=told.get("state_there") == "yes",
        writable=told.get("writable") == "yes",
        free_bytes=_number(told.get("free_kb", ""), 0) * 1024,
        mount=frozenset(told.get("mount", "").split(",")),
        current=told.get("current", "").rpartition("/")[2],
        previous=told.get("previous", "").rpartition("/")[2],
        versions=tuple(told.get("versions", "").split()),
        identity=_identity(told.get("joined", "")),
        config_sum=told.get("config", ""),
        config_ours=told.get("ours", "0") not in ("", "0"),
    )


def _number(text: str, otherwise: int) -> int:
    return int(text) if re.fullmatch(r"\d{1,18}", text) else otherwise


def _python(text: str) -> tuple[int, int, str] | None:
    found = re.fullmatch(r"(\d+) (\d+) (/.+)", text.strip())
    return (int(found[1]), int(found[2]), found[3]) if found else None


def _identity(text: str) -> Identity | None:
    try:
        return read_as(Identity, base64.b64decode(text))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def problems_of(facts: RemoteFacts, needs: BundleNeeds, system_wide: bool, python_comes: bool = False) -> Iterator[str]:
    """Yield what keeps twd from running there, each with its cause and what to do. `python_comes`: one can be sent."""
    if (facts.system, facts.machine) != (needs.system, needs.machine):
        there = f"{facts.system or 'an unknown system'} {facts.machine}"
        yield f"it is {there}, and these wheels are for {needs.system} {needs.machine}: give wheels for it with --from"
        return
    if system_wide and facts.uid != 0:
        yield "--system needs root there: log in as root (--ssh-user root), or leave --system out"
    if "musl" in facts.libc.lower():
        yield "its C library is musl, and these wheels are for glibc: give wheels for it with --from"
    elif (found := _glibc(facts.libc)) and found < needs.glibc:
        there, wanted = (".".join(map(str, version)) for version in (found, needs.glibc))
        yield f"its C library is glibc {there}, and these wheels need {wanted}: give older wheels with --from"
    if not facts.python(needs.python) and not python_comes:
        version = ".".join(map(str, needs.python))
        there = ", ".join(f"{major}.{minor}" for major, minor, _ in facts.pythons) or "none"
        text = f"these wheels need Python {version}, and there is {there}"
        yield f"{text}: install python{version} there, or give one to send with --python"
    if missing := sorted(needs.flags - facts.flags):
        text = f"its processor has no {', '.join(missing)}, for which the engine here was built"
        yield f"{text}: give a portable build with --from"
    yield from _disk_problems(facts, needs)


def _disk_problems(facts: RemoteFacts, needs: BundleNeeds) -> Iterator[str]:
    if "ro" in facts.mount or not facts.writable:
        yield f"{facts.base} cannot be written there: is the disk read-only, or another user's?"
    if "noexec" in facts.mount:
        yield f"the disk of {facts.base} lets no program run (noexec): mount it without, or use --system"
    if facts.free_bytes < ROOM_FACTOR * needs.size:
        free, wanted = facts.free_bytes >> 20, ROOM_FACTOR * needs.size >> 20
        yield f"{free} MiB are free for {facts.base}, and {wanted} are wanted: make room there"


def _glibc(text: str) -> tuple[int, int] | None:
    found = re.search(r"(\d+)\.(\d+)", text) if "glibc" in text.lower() or "gnu" in text.lower() else None
    return (int(found[1]), int(found[2])) if found else None


def remarks_of(facts: RemoteFacts, now: int) -> Iterator[str]:
    """Yield what is worth knowing and stops nothing."""
    if abs(now - facts.time) > CLOCK_TOLD_S:
        yield f"its clock differs by {abs(now - facts.time)} s; joining does not mind, its logs will"
    if facts.cards and not facts.compiler:
        yield "it has graphics cards, but the engine that is sent computes on the processor, if it was built so here"
