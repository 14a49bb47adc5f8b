"""Writes a unit of systemd from a plan. No I/O."""

from collections.abc import Iterator
from typing import Final

from twd.setup.units.plan import AGENT, SERVICE_USER, SYSTEM_STATE, UnitPlan

WATCHDOG_S: Final = 60
START_S: Final = 120
"""A start that gets on asks for more time again and again."""
STOP_S: Final = 90
"""Longer than a drain takes: what is left then hangs."""
SANDBOX: Final = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @obsolete",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)
"""What a user's own service manager can enforce, too.

Memory that is written and executed stays allowed: drivers of cards compile programs."""
SYSTEM_SANDBOX: Final = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectProc=invisible",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "PrivateTmp=yes",
    "KeyringMode=private",
    "RemoveIPC=yes",
)
CARDS: Final = ("char-nvidia*", "char-drm", "char-accel", "/dev/kfd")


def systemd_unit(plan: UnitPlan) -> str:
    """Return the text of the unit."""
    plan.check()
    parts = (_unit(plan), _service(plan), _sandbox(plan), _install(plan))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _unit(plan: UnitPlan) -> Iterator[str]:
    what = "one machine lent to other machines" if plan.name == AGENT else "one OpenAI-compatible endpoint"
    yield "[Unit]"
    yield f"Description=twd, {what}"
    if plan.system:
        yield "Wants=network-online.target"
        yield "After=network-online.target"
    if plan.name == AGENT:
        yield "Conflicts=twd.service"
    yield "StartLimitIntervalSec=600"
    yield "StartLimitBurst=5"


def _service(plan: UnitPlan) -> Iterator[str]:
    yield "[Service]"
    yield "Type=notify"
    yield f"ExecStart={_program(plan.program)} {' '.join(map(word, plan.arguments))}"
    yield f"ExecReload={_program(plan.program)} {' '.join(map(word, plan.reload))}"
    yield "# only the supervisor is asked to end; it lets its processes finish their jobs, as `twd down` does"
    yield "KillMode=mixed"
    yield f"TimeoutStartSec={START_S}"
    yield f"TimeoutStopSec={STOP_S}"
    yield "# a sign of life means that questions can be answered, or that what cannot answer is being replaced"
    yield f"WatchdogSec={WATCHDOG_S}"
    yield "Restart=on-failure"
    yield "RestartSec=3"
    yield "# wrong options, wrong settings, or another twd in the same folder: a new start would change nothing"
    yield "RestartPreventExitStatus=2 5 6"
    yield "# one process too many for the memory is replaced by its supervisor"
    yield "OOMPolicy=continue"
    yield f"Environment={quoted(f'TWD_HOME={plan.home}')}"
    yield from (f"Environment={quoted(f'{name}={text}')}" for name, text in sorted(plan.environment.items()))
    yield from (f"LoadCredential={name}:{_percent(file)}" for name, file in sorted(plan.credentials.items()))
    if plan.system:
        yield from _system(plan)
    yield "LimitNOFILE=65536"
    yield "LimitCORE=0"


def _system(plan: UnitPlan) -> Iterator[str]:
    yield f"User={SERVICE_USER}"
    yield f"Group={SERVICE_USER}"
    if plan.groups:
        yield f"SupplementaryGroups={' '.join(plan.groups)}"
    if plan.home == str(SYSTEM_STATE):
        yield f"StateDirectory={SYSTEM_STATE.name}"
        yield "StateDirectoryMode=0700"
    yield "ConfigurationDirectory=twd"
    yield "# models are kept in memory where their settings say so"
    yield "LimitMEMLOCK=infinity"


def _sandbox(plan: UnitPlan) -> Iterator[str]:
    yield "# what it may not do"
    yield from SANDBOX
    if not plan.system:
        return
    yield from SYSTEM_SANDBOX
    yield f"ProtectHome={'read-only' if plan.reads_homes else 'yes'}"
    writes = [folder for folder in (plan.home, *plan.writes) if folder != str(SYSTEM_STATE)]
    yield from (f"ReadWritePaths={quoted(f'-{folder}')}" for folder in writes)
    yield "DevicePolicy=closed"
    if plan.cards:
        yield from (f"DeviceAllow={card} rw" for card in CARDS)
    else:
        yield "PrivateDevices=yes"
        yield "PrivateUsers=yes"


def _install(plan: UnitPlan) -> Iterator[str]:
    yield "[Install]"
    yield f"WantedBy={'multi-user.target' if plan.system else 'default.target'}"


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def quoted(text: str) -> str:
    """Return a value as one word of a unit, whatever it holds."""
    return '"' + _percent(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def word(argument: str) -> str:
    """Return one argument of a command line; systemd replaces $NAME there."""
    plain = argument and all(letter.isalnum() or letter in "-_./=:,+@" for letter in argument)
    return argument if plain else quoted(argument.replace("$", "$$"))


def _program(path: str) -> str:
    """Of the program itself systemd replaces no $NAME."""
    return quoted(path)
