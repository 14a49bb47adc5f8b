"""What a calibration proved, kept in a file: which rule, for whom, under which conditions."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from twd.gate.verdict import Rule, Statistic
from twd.private_file import write_private
from twd.wire.job import Sampling

FOLDER: Final = "gate"
JUDGE_FACTS: Final = ("file", "architecture", "quantization", "parameters", "vocab", "settings", "template")
"""Of a model's lease; any change makes a profile stale."""
FILE_MAX: Final = 1 << 20


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Under which a profile counts."""

    judge: str
    member: str
    judge_is: str
    member_is: str
    sampling: str
    hold: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One member's calibration by one judge."""

    conditions: Conditions
    statistic: Statistic
    tolerance: Annotated[float, Meta(ge=0.0)]
    max_error: Annotated[float, Meta(gt=0.0, lt=1.0)]
    confidence: Annotated[float, Meta(gt=0.0, lt=1.0)]
    passes: int
    errors: int
    bound: float
    prompts: str
    """The hash of the prompts that it rests on."""
    error: str = "check"
    made_ms: int = 0
    closed: str = ""
    """Why it counts no more."""
    checksum: str = ""

    @property
    def rule(self) -> Rule:
        """What it allows."""
        return Rule(self.statistic, self.tolerance)

    @property
    def sealed(self) -> "Profile":
        """The same with its checksum."""
        return msgspec.structs.replace(self, checksum=self._sum)

    @property
    def _sum(self) -> str:
        plain = msgspec.structs.replace(self, checksum="")
        return sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()

    def stale(self, now: Conditions) -> str:
        """What has changed since; empty when nothing has."""
        if self.closed:
            return self.closed
        pairs = ((name, getattr(self.conditions, name), getattr(now, name)) for name in now.__struct_fields__)
        changed = [name.replace("_is", "'s model") for name, then, here in pairs if then != here]
        return f"changed since it was calibrated: {', '.join(changed)}" if changed else ""


def identity(facts: dict[str, Any]) -> str:
    """A model as a profile knows it: its file, its template, its settings."""
    told = {name: facts.get(name) for name in JUDGE_FACTS}
    return sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:16]


def sampling_hash(sampling: Sampling) -> str:
    """How texts are drawn, whatever the seed."""
    return sha256(msgspec.json.encode(msgspec.structs.replace(sampling, seed=None))).hexdigest()[:16]


def path_of(home: Path, judge: str, member: str) -> Path:
    """Where a profile is kept."""
    name = sha256(f"{judge}\n{member}".encode()).hexdigest()[:16]
    return home / FOLDER / f"profile-{name}.json"


def write(home: Path, profile: Profile) -> Path:
    """Keep a profile."""
    path = path_of(home, profile.conditions.judge, profile.conditions.member)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, msgspec.json.format(msgspec.json.encode(profile.sealed)))
    return path


def read(path: Path) -> Profile | str:
    """A profile, or why the file is none."""
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
