"""Which members write the next answer: in turn, at random or by their record. Takes random numbers as an argument."""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal

import msgspec

from twd.wire.job import JobSubmitted

Routing = Literal["round_robin", "random", "adaptive"]
RECENT: Final = 16
"""The number of judged answers that decide whether a member is worth asking."""
REST_BELOW: Final = 0.1
"""A member rests if less than this share of its latest answers was kept."""
REST_ANSWERS: Final = 200
"""A resting member is asked again after this many requests."""
EXPLORE: Final = 0.1
CONVERSATIONS_MAX: Final = 4096
SLOW: Final = 2.0
"""An answer is late after this many times the member's usual time."""
LATE_AT_LEAST_S: Final = 1.0


@dataclass(slots=True)
class Member:
    """The record of one member that writes answers."""

    name: str
    asked: int = 0
    approved: int = 0
    corrected: int = 0
    rejected: int = 0
    failed: int = 0
    usual_s: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The kept share of each of its latest answers."""
    rests: int = 0
    """The number of requests until it is asked again."""
    gone: bool = False

    @property
    def kept(self) -> float:
        """The mean kept share of its latest answers; starts at a half while nothing is known."""
        return (sum(self.recent) + 0.5) / (len(self.recent) + 1)

    @property
    def worth(self) -> float:
        """The kept share divided by its usual seconds for an answer."""
        return self.kept / max(self.usual_s, 0.05)

    def took(self, seconds: float) -> None:
        """It took this many seconds to write an answer."""
        self.usual_s = seconds if not self.usual_s else 0.8 * self.usual_s + 0.2 * seconds

    def judged(self, kept: float) -> None:
        """This share of an answer was kept. A member of which almost nothing is kept rests."""
        self.recent.append(kept)
        if len(self.recent) >= RECENT and sum(self.recent) / len(self.recent) < REST_BELOW:
            self.rests = REST_ANSWERS
            self.recent.clear()

    @property
    def useless(self) -> bool:
        """Whether enough of its answers were judged and almost all were rejected."""
        judged = self.approved + self.corrected + self.rejected
        return judged >= RECENT and self.approved + self.corrected < REST_BELOW * judged

    @property
    def resting(self) -> bool:
        """Whether it is not asked at present."""
        return self.rests > 0 or self.gone


class Fleet:
    """All members, and which member wrote for which conversation."""

    def __init__(self, names: Sequence[str], routing: Routing) -> None:
        self.members = {name: Member(name) for name in names}
        self.routing = routing
        self._turn = 0
        self._homes: OrderedDict[bytes, str] = OrderedDict()

    def order(self, job: JobSubmitted, dice: Callable[[], float], barred: Collection[str] = ()) -> list[str]:
        """The members to ask for this job, in order; resting ones are left out."""
        for member in self.members.values():
            member.rests = max(0, member.rests - 1)
        able = [one for one in self.members.values() if not one.resting and one.name not in barred]
        names = [one.name for one in self._ranked(able, dice)]
        home = self._home(job)
        if home in names:
            names.remove(home)
            names.insert(0, home)
        return names

    def _ranked(self, able: list[Member], dice: Callable[[], float]) -> list[Member]:
        if not able:
            return []
        match self.routing:
            case "round_robin":
                self._turn += 1
                start = (self._turn - 1) % len(able)
                return able[start:] + able[:start]
            case "random":
                return sorted(able, key=lambda _: dice())
            case "adaptive":
                ranked = sorted(able, key=lambda one: -one.worth)
                if dice() < EXPLORE:
                    ranked.insert(0, ranked.pop(int(dice() * len(ranked)) % len(ranked)))
                return ranked

    def _home(self, job: JobSubmitted) -> str:
        return self._homes.get(conversation_of(job), "") if goes_on(job) else ""

    def wrote(self, job: JobSubmitted, name: str) -> None:
        """Remember that this member continues the conversation: its cache holds the beginning."""
        key = conversation_of(job)
        self._homes[key] = name
        self._homes.move_to_end(key)
        if len(self._homes) > CONVERSATIONS_MAX:
            self._homes.popitem(last=False)

    def late_s(self, name: str) -> float:
        """The number of seconds after which an answer of this member is late."""
        usual = self.members[name].usual_s
        return max(LATE_AT_LEAST_S, SLOW * usual) if usual else 4 * LATE_AT_LEAST_S


def goes_on(job: JobSubmitted) -> bool:
    """Whether a job continues a conversation."""
    return sum(message.role == "user" for message in job.prompt.messages or ()) > 1


def conversation_of(job: JobSubmitted) -> bytes:
    """A hash of the beginning of the conversation, which is the same for all its turns."""
    messages = job.prompt.messages or []
    first = next((place for place, one in enumerate(messages) if one.role == "user"), -1)
    beginning = messages[: first + 1] if first >= 0 else [job.prompt.text or ""]
    return sha256(msgspec.json.encode(beginning)).digest()[:16]
