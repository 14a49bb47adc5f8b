"""Names as parts of subjects."""

import re
from functools import lru_cache

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@lru_cache(4096)
def subject_token(text: str) -> str:
    """Make one subject token of any id: what NATS gives a meaning to is written as `=hex`."""
    return _UNSAFE.sub(lambda m: "".join(f"={b:02x}" for b in m.group().encode()), text) or "="


def _name_parts(instance: str) -> tuple[str, str, str]:
    role, _, rest = instance.partition(".")
    machine, _, copy = rest.rpartition(".")
    return role, machine, copy


@lru_cache(4096)
def origin_of(instance: str) -> str:
    """An instance's name `<role>.<machine>.<copy>` as three subject tokens."""
    return ".".join(map(subject_token, _name_parts(instance)))


@lru_cache(4096)
def machine_of(instance: str) -> str:
    """The machine in an instance's name."""
    return _name_parts(instance)[1]
