"""The file of what the audits of one profile have found, so that a restart forgets nothing."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from twd.drafting.betting import Audit
from twd.private_file import write_private

FILE_MAX: Final = 1 << 16
_Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_Count = Annotated[int, Meta(ge=0)]


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The counts and bounds of one profile's audits."""

    profile: str
    """The checksum of the profile as it was made; another profile begins anew."""
    passed: _Count
    audits: _Count
    errors: _Count
    low: _Share
    high: _Share


def path_of(profile: Path) -> Path:
    """The path of the record of a profile's file."""
    return profile.with_name(profile.name.replace("profile-", "audits-", 1))


def write(path: Path, checksum: str, passed: int, audit: Audit) -> None:
    """Write the record."""
    record = AuditRecord(
        profile=checksum, passed=passed, audits=audit.audits, errors=audit.errors, low=audit.low, high=audit.high
    )
    write_private(path, msgspec.json.format(msgspec.json.encode(record)))


def read(path: Path, checksum: str, max_error: float) -> tuple[int, Audit]:
    """How many answers had passed, and the audits; nothing for another profile or a file that cannot be read."""
    try:
        data = path.read_bytes() if path.stat().st_size <= FILE_MAX else b""
        record = msgspec.json.decode(data, type=AuditRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0, Audit(max_error)
    if record.profile != checksum or record.errors > record.audits:
        return 0, Audit(max_error)
    return record.passed, Audit(max_error, record.audits, record.errors, record.low, record.high)
