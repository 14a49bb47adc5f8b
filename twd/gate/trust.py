"""How far each member may deviate, by its profile, and what the audits have found since. No clock, no bus."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from twd.drafting.betting import Audit
from twd.gate.audit import due
from twd.gate.calibration import audit_file, profile
from twd.gate.calibration.profile import Conditions, Profile
from twd.gate.verdict import Rule
from twd.wire.job import JobSubmitted
from twd.wire.leases.base import ServerFacts
from twd.wire.leases.gate import AuditFacts

FIRST: Final = 100
"""With a new profile, this many passed answers are all audited."""
WAITING_MAX: Final = 256
Facts = Callable[[str], ServerFacts | None]
"""Returns the facts of a model's lease; None if no worker serves it."""


@dataclass(slots=True)
class Standing:
    """A profile, and what the audits have found since."""

    profile: Profile
    audit: Audit
    passed: int = 0


@dataclass(frozen=True, slots=True)
class AuditTask:
    """A passed answer that the target will write again, to compare."""

    job: JobSubmitted
    target: str
    member: str
    text: str
    error: str


@dataclass
class Trust:
    """All profiles of one gate."""

    home: Path
    hold: str
    share: float
    standing: dict[tuple[str, str], Standing] = field(default_factory=dict)
    waiting: deque[AuditTask] = field(default_factory=lambda: deque(maxlen=WAITING_MAX))
    stale: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a pair of target and member has no rule."""

    def reload(self, targets: Iterable[str], members: Iterable[str]) -> None:
        """Read the profiles again; a new profile is valid from now on."""
        names = list(members)
        for target in targets:
            for member in names:
                self._reload(target, member)

    def _reload(self, target: str, member: str) -> None:
        key, found = (target, member), profile.read(profile.path_of(self.home, target, member))
        if isinstance(found, str):
            self.standing.pop(key, None)
            self.stale[key] = found
            return
        known = self.standing.get(key)
        if known is None or known.profile.checksum != found.checksum:
            passed, audit = audit_file.read(self._audits_of(key), found.checksum, found.max_error)
            self.standing[key] = Standing(found, audit, passed)

    def _audits_of(self, key: tuple[str, str]) -> Path:
        return audit_file.path_of(profile.path_of(self.home, *key))

    def rules(self, job: JobSubmitted, target: str, members: Iterable[str], facts: Facts) -> dict[str, Rule]:
        """The rule of each member for this request. For a member without a rule, every token must be the
        target's own.
        """
        found: dict[str, Rule] = {}
        for member in members:
            standing = self.standing.get((target, member))
            if standing is None:
                continue
            why = standing.profile.stale(self.conditions(job, target, member, facts))
            if why:
                self.stale[target, member] = why
            else:
                self.stale.pop((target, member), None)
                found[member] = standing.profile.rule
        return found

    def conditions(self, job: JobSubmitted, target: str, member: str, facts: Facts) -> Conditions:
        """The conditions of a request, to compare with those of a profile."""
        return Conditions(
            judge=target,
            member=member,
            judge_is=profile.identity(facts(target)),
            member_is=profile.identity(facts(member)),
            sampling=profile.sampling_hash(job.sampling),
            hold=self.hold,
        )

    def passed(self, job: JobSubmitted, target: str, member: str, text: str, chance: float) -> None:
        """A member's answer passed with tokens that are not the target's own; choose whether to audit it."""
        standing = self.standing.get((target, member))
        if standing is None:
            return
        standing.passed += 1
        if due(standing.passed, self.share, FIRST, chance):
            self.waiting.append(AuditTask(job, target, member, text, standing.profile.error))

    @property
    def told(self) -> list[AuditFacts]:
        """The results of the audits."""
        return [
            AuditFacts(
                target=target,
                member=member,
                errors=one.audit.errors,
                audits=one.audit.audits,
                low=round(one.audit.low, 4),
                high=round(one.audit.high, 4),
            )
            for (target, member), one in self.standing.items()
        ]

    def audited(self, task: AuditTask, wrong: bool) -> tuple[Audit, str]:
        """Add the result of an audit; returns the audit counts, and why the profile is closed, or an empty text."""
        key = task.target, task.member
        standing = self.standing[key]
        audit = standing.audit
        audit.learn(wrong)
        audit_file.write(self._audits_of(key), standing.profile.checksum, standing.passed, audit)
        if not audit.broken or standing.profile.closed:
            return audit, ""
        why = (
            f"{audit.errors} of {audit.audits} audited answers were wrong: above the {audit.max_error:.1%} that was "
            "proved; calibrate anew"
        )
        standing.profile = replace(standing.profile, closed=why).sealed
        profile.write(self.home, standing.profile)
        return audit, why
