"""What drafters propose in the sessions that want votes, and which agreed tokens to publish. No clock, no bus.

A path is what one drafter proposes after the accepted text. It is stored with its absolute position and the hash of all
tokens before it. So a late, repeated or foreign proposal does not match.
"""

from dataclasses import dataclass, field
from typing import Final

from twd.racer.votes import Agreed, Policy, agree
from twd.wire.base import InstanceId, SessionId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.job import TokensAccepted
from twd.wire.judging import TokensAgreed
from twd.wire.prefix import EMPTY, extend

SESSIONS_MAX: Final = 1024
PATH_MAX: Final = 256
POLICIES: Final[dict[str, Policy]] = {"strict": "strict", "majority": "majority", "any_disagree": "any_disagree"}


@dataclass(slots=True)
class Path:
    """Tokens from position `at` on. `hashes` has the prefix hash before each token and after the last one."""

    at: int
    hashes: list[int]
    tokens: list[int] = field(default_factory=list)

    def add(self, at: int, prefix: int, tokens: list[int]) -> bool:
        """Continue from position `at` if the prefix hash matches this path; returns whether it does."""
        place = at - self.at
        if not 0 <= place < len(self.hashes) or self.hashes[place] != prefix:
            return False
        del self.tokens[place:], self.hashes[place + 1 :]
        for token in tokens[: PATH_MAX - place]:
            self.tokens.append(token)
            self.hashes.append(extend(self.hashes[-1], (token,)))
        return True

    def behind(self, at: int, prefix: int) -> list[int]:
        """The tokens from position `at` on; empty if the prefix hash does not match."""
        place = at - self.at
        return self.tokens[place:] if 0 <= place < len(self.hashes) and self.hashes[place] == prefix else []


@dataclass(slots=True)
class Race:
    """The votes of one session."""

    policy: Policy
    at: int
    prefix: int
    voters: dict[InstanceId, str]
    """The drafters that were asked, and the model file of each."""
    paths: dict[InstanceId, Path] = field(default_factory=dict)
    told: list[int] = field(default_factory=list)
    """The agreed tokens from `at` on that were published."""

    @property
    def asked(self) -> int:
        """The number of votes: all drafters with the same file have one vote together."""
        return len(set(self.voters.values()))

    def ballots(self) -> dict[str, list[int]]:
        """The proposal of each file; of several drafters with the same file, the longest proposal."""
        found: dict[str, list[int]] = {}
        for voter, path in self.paths.items():
            says, name = path.behind(self.at, self.prefix), self.voters[voter]
            if says and len(says) > len(found.get(name, [])):
                found[name] = says
        return found


class RacerCore:
    """All sessions that want votes."""

    def __init__(self, racer: InstanceId) -> None:
        self.racer = racer
        self.races: dict[SessionId, Race] = {}
        self.agreed = 0
        """Tokens on which drafters agreed; each counts once, however often it is told."""

    def opened(self, event: SessionOpened) -> None:
        """A session was opened, or announced again."""
        policy = POLICIES.get(event.consensus)
        if policy is None:
            return
        prefix = extend(EMPTY, event.tokens)
        voters = {one.drafter: one.model for one in event.voters}
        known = self.races.get(event.session)
        if known is not None and known.at >= len(event.tokens):
            known.voters = voters
            known.paths = {voter: path for voter, path in known.paths.items() if voter in voters}
            return
        self.races[event.session] = Race(policy, len(event.tokens), prefix, voters)
        if len(self.races) > SESSIONS_MAX:
            self.races.pop(next(iter(self.races)))

    def closed(self, session: SessionId) -> None:
        """A session was closed."""
        self.races.pop(session, None)

    def proposed(self, event: DraftProposed) -> TokensAgreed | None:
        """A drafter votes. Text drafts do not count, nor do drafters that were not asked."""
        race = self.races.get(event.session)
        if race is None or event.drafter not in race.voters or not event.tokens:
            return None
        path = race.paths.get(event.drafter)
        if path is None or not path.add(event.at, event.prefix, event.tokens):
            path = Path(race.at, [race.prefix])
            if not path.add(event.at, event.prefix, event.tokens):
                return None
            race.paths[event.drafter] = path
        return self._told(event.session, race)

    def accepted(self, event: TokensAccepted) -> TokensAgreed | None:
        """The target accepted tokens."""
        race = self.races.get(event.session)
        if race is None or event.at != race.at or not event.tokens:
            if race is not None and event.at > race.at:
                self.closed(event.session)  # tokens are missing, so the prefix is not known any more
            return None
        race.at += len(event.tokens)
        race.prefix = extend(race.prefix, event.tokens)
        count = len(event.tokens)
        race.told = race.told[count:] if race.told[:count] == event.tokens else []
        return self._told(event.session, race)

    def _told(self, session: SessionId, race: Race) -> TokensAgreed | None:
        agreed: Agreed = agree(race.ballots(), race.asked, race.policy)
        tokens = agreed.tokens[:PATH_MAX]
        if len(tokens) <= len(race.told):
            return None
        self.agreed += len(tokens) - len(race.told)
        race.told = tokens
        return TokensAgreed(
            session=session,
            racer=self.racer,
            at=race.at,
            prefix=race.prefix,
            tokens=tokens,
            votes=agreed.votes,
            asked=race.asked,
        )
