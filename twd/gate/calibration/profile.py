"""The file of a calibration: the rule that was proved, for which judge and member, and under which conditions."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from twd.gate.verdict import Rule, Statistic
from twd.private_file import write_private
from twd.wire.job import Sampling
from twd.wire.leases.base import ServerFacts

FOLDER: Final = "gate"
JUDGE_FACTS: Final = ("file", "architecture", "quantization", "parameters", "vocab", "settings", "template")
"""Facts of a model's lease. If one of them changes, the profile is stale."""
FILE_MAX: Final = 1 << 20


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """A profile is valid only under these conditions."""

    judge: str
    member: str
    judge_is: str
    member_is: str
    sampling: str
    hold: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The calibration of one member by one judge."""

    conditions: Conditions
    statistic: Statistic
    tolerance: Annotated[float, Meta(ge=0.0)]
    max_error: Annotated[float, Meta(gt=0.0, lt=1.0)]
    confidence: Annotated[float, Meta(gt=0.0, lt=1.0)]
    passes: int
    errors: int
    bound: float
    prompts: str
    """The hash of the prompts that were used."""
    error: str = "check"
    made_ms: int = 0
    closed: str = ""
    """Why the profile is not valid any more; empty while it is."""
    checksum: str = ""

    @property
    def rule(self) -> Rule:
        """The rule that the profile allows."""
        return Rule(self.statistic, self.tolerance)

    @property
    def sealed(self) -> "Profile":
        """A copy with its checksum."""
        return msgspec.structs.replace(self, checksum=self._sum)

    @property
    def _sum(self) -> str:
        plain = msgspec.structs.replace(self, checksum="")
        return sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()

    def stale(self, now: Conditions) -> str:
        """What has changed since the calibration; empty if nothing has."""
        if self.closed:
            return self.closed
        pairs = ((name, getattr(self.conditions, name), getattr(now, name)) for name in now.__struct_fields__)
        changed = [name.replace("_is", "'s model") for name, then, here in pairs if then != here]
        return f"changed since it was calibrated: {', '.join(changed)}" if changed else ""


def identity(facts: ServerFacts | None) -> str:
    """A hash that identifies a model: its file, its template, its settings."""
    told = {name: getattr(facts, name, None) for name in JUDGE_FACTS}
    return sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:16]


def sampling_hash(sampling: Sampling) -> str:
    """A hash of the sampling parameters without the seed."""
    return sha256(msgspec.json.encode(msgspec.structs.replace(sampling, seed=None))).hexdigest()[:16]


def path_of(home: Path, judge: str, member: str) -> Path:
    """The path of a profile."""
    name = sha256(f"{judge}\n{member}".encode()).hexdigest()[:16]
    return home / FOLDER / f"profile-{name}.json"


def write(home: Path, profile: Profile) -> Path:
    """Write a profile to its file; returns the path."""
    path = path_of(home, profile.conditions.judge, profile.conditions.member)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, msgspec.json.format(msgspec.json.encode(profile.sealed)))
    return path


def read(path: Path) -> Profile | str:
    """The profile of a file, or a text that says why there is none."""
    try:
        if path.stat().st_size > FILE_MAX:
            return f"{path.name} is too large to be a profile"
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        return "it was never calibrated: `twd gate calibrate FILE`"
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"{path.name} cannot be read: {error}"
    if profile.checksum != profile._sum:
        return f"{path.name} was edited or cut: calibrate anew"
    return profile
