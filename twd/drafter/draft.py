"""One session as a drafter sees it: the accepted text, the drafts beyond it, and branches off them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from twd.decoding.window import Sampler
from twd.drafter.trust import ConfidenceCalibration
from twd.drafting.continuation import KnownContinuation
from twd.drafting.ngram import NgramIndex
from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.prefix import common_prefix, extend, prefix_hash

FLOOR = 0.3
FLOOR_BESIDE = 0.6
BRANCHES = 3
BRANCH_TOKENS = 4
BRANCH_WORTH = 0.04
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Guess:
    """A drafted token, its confidence, and the second choice with its confidence."""

    token: int
    confidence: float
    other: int = -1
    other_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class DraftRules:
    """What is needed to draft for one text: its sampler, and the forced tokens of its grammar."""

    sampler: Sampler
    ahead: KnownContinuation | None = None


@dataclass(slots=True)
class Branch:
    """The drafts that follow if the draft at `index` is wrong and the drafter's second choice is right."""

    index: int
    guesses: list[Guess]
    sent: bool = False


@dataclass(slots=True)
class DraftState:
    """The state of one session; only the core changes it."""

    session: SessionId
    job: JobId
    accepted: list[int]
    sampler: Sampler
    credit: int
    floor: float
    beside: bool
    trust: ConfidenceCalibration
    slot: int = -1
    kept: list[int] = field(default_factory=list)
    """The tokens in the engine's slot."""
    guesses: list[Guess] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    on_branch: Branch | None = None
    sent: int = 0
    spent_ms: float = 0.0
    told_rest: bool = False
    waits: bool = False
    """True: the target reads the prompt on the same cores, so nothing is computed before it has picked the first
    token."""
    prompt_tokens: int = 0
    ahead: KnownContinuation | None = None
    tells: bool = False
    """Whether the speculator wants to know which experts were chosen."""
    known: NgramIndex = field(default_factory=NgramIndex)
    """The part of the accepted text that is indexed for copies."""
    copied_sure: float = 0.0
    """The confidence of the copies in the current step."""
    _hash: int = 0
    _hashed: int = -1
    _sure: int = 0

    @property
    def path(self) -> list[int]:
        """The drafted tokens that are being continued: the main line, or a branch off it."""
        branch = self.on_branch
        if branch is None:
            return [guess.token for guess in self.guesses]
        return [guess.token for guess in (*self.guesses[: branch.index], *branch.guesses)]

    @property
    def length(self) -> int:
        """The number of accepted tokens and tokens of the path."""
        branch = self.on_branch
        beyond = len(self.guesses) if branch is None else branch.index + len(branch.guesses)
        return len(self.accepted) + beyond

    @property
    def resting(self) -> bool:
        """Whether the main line must not go on before more tokens are accepted."""
        if self.waits or len(self.guesses) >= self.credit:
            return True
        return self.trust.chance(math.prod(guess.confidence for guess in self.guesses)) < self.floor

    @property
    def least(self) -> float:
        """How small the product of the next confidences may get before the main line rests; 0 on a branch."""
        if self.on_branch is not None:
            return 0.0
        return self.trust.least(self.floor) / max(_TINY, math.prod(guess.confidence for guess in self.guesses))

    def run(self, enough: int) -> int:
        """Returns how many drafts may follow in one go. `enough`: how many are sent in one message."""
        branch = self.on_branch
        if branch is not None:
            return BRANCH_TOKENS - len(branch.guesses)
        left = self.credit - len(self.guesses)
        return left if self.beside else min(left, enough - (len(self.guesses) - self.sent))

    @property
    def fed(self) -> int:
        """How many tokens of accepted text and path the slot holds. The last token never counts: it is computed again
        for its logits."""
        known, limit = len(self.accepted), min(len(self.kept), self.length - 1)
        at = min(self._sure, limit)
        while at < min(known, limit) and self.kept[at] == self.accepted[at]:
            at += 1
        self._sure = at
        if at < known:
            return at
        path = self.path
        while at < limit and self.kept[at] == path[at - known]:
            at += 1
        return at

    def span(self, start: int, end: int) -> tuple[int, ...]:
        """Returns the tokens of accepted text and path from position `start` to before `end`."""
        known = len(self.accepted)
        return (*self.accepted[start:end], *self.path[max(0, start - known) : max(0, end - known)])

    def copies(self, room: int) -> tuple[list[int], float]:
        """Returns what may follow the path without a model, and its confidence: forced tokens of the grammar, or
        copies of earlier text."""
        known = len(self.known)
        news = self.accepted[known:]
        self.known.extend(news)
        if self.ahead is not None:
            self.ahead.extend(news[max(0, self.prompt_tokens - known) :])
            tokens, sure = self.ahead.propose(room, self.path)
            if tokens:
                return tokens, sure[0]
        return self.known.propose(room, self.path)

    # -- moving ----------------------------------------------------------------------------------

    def add(self, guess: Guess, spent_ms: float) -> None:
        """Add a draft to the path that is being continued."""
        if self.on_branch is None:
            self.guesses.append(guess)
            self.spent_ms += spent_ms
            return
        self.on_branch.guesses.append(guess)
        if len(self.on_branch.guesses) >= BRANCH_TOKENS:
            self.on_branch = None

    def choose_branch(self) -> bool:
        """Continue a branch, or open the most promising one; returns False when none is worth the time."""
        if self.on_branch is not None:
            return True
        if self.beside or self.waits or not self.credit or len(self.branches) >= BRANCHES:
            return False
        taken = {branch.index for branch in self.branches}
        held, best, best_worth = 1.0, -1, BRANCH_WORTH
        for index, guess in enumerate(self.guesses):
            worth = held * guess.other_confidence
            if index not in taken and guess.other >= 0 and worth > best_worth:
                best, best_worth = index, worth
            held *= guess.confidence
        if best < 0:
            return False
        guess = self.guesses[best]
        self.on_branch = Branch(best, [Guess(guess.other, guess.other_confidence)])
        self.branches.append(self.on_branch)
        return True

    def settle(self, news: Sequence[int]) -> None:
        """Take accepted tokens. Drafts that agree become text; a branch that agrees becomes the main line."""
        right = common_prefix([guess.token for guess in self.guesses], news)
        branch = self._branch_for(right, news)
        for index, guess in enumerate(self.guesses[: min(right + 1, len(news))]):
            self.trust.learn(guess.confidence, index < right)
        self.accepted += news
        self.told_rest, self.waits, self.on_branch = False, False, None
        if right == len(news):
            del self.guesses[:right]
            self.sent = max(0, self.sent - right)
            self.branches = [_earlier(one, right) for one in self.branches if one.index >= right]
            return
        self.guesses = [] if branch is None else branch.guesses[len(news) - right :]
        self.sent = len(self.guesses) if branch is not None and branch.sent else 0
        self.branches, self.spent_ms = [], 0.0

    def _branch_for(self, index: int, news: Sequence[int]) -> Branch | None:
        for branch in self.branches:
            rest = news[index:]
            if branch.index == index and common_prefix([guess.token for guess in branch.guesses], rest) == len(rest):
                return branch
        return None

    def give_up(self) -> None:
        """Drop all drafts: a part of the text is missing until the session is opened again."""
        self.guesses, self.branches, self.on_branch, self.sent, self.credit = [], [], None, 0, 0

    # -- telling ---------------------------------------------------------------------------------

    def _prefix(self) -> int:
        """Returns the hash of the accepted text."""
        if self._hashed < 0:
            self._hash = prefix_hash(self.accepted)
        else:
            self._hash = extend(self._hash, self.accepted[self._hashed :])
        self._hashed = len(self.accepted)
        return self._hash

    def proposal(self, drafter: InstanceId) -> DraftProposed:
        """Returns the drafts of the main line that were not sent yet."""
        message = self._message(drafter, self.sent, self.guesses[self.sent :], self.spent_ms)
        self.sent, self.spent_ms = len(self.guesses), 0.0
        self.told_rest = self.resting
        return message

    def read_for(self, message: DraftProposed) -> list[int]:
        """Returns the tokens that were read to guess those of a message of this session, made just now."""
        index = message.at - len(self.accepted)
        before = self.guesses[index - 1].token if index else self.accepted[-1]
        return [before, *message.tokens[:-1]]

    def branch_proposals(self, drafter: InstanceId) -> list[DraftProposed]:
        """Returns the branches that are finished and not sent yet."""
        ready = [branch for branch in self.branches if not branch.sent and branch is not self.on_branch]
        for branch in ready:
            branch.sent = True
        return [self._message(drafter, branch.index, branch.guesses) for branch in ready]

    def _message(
        self, drafter: InstanceId, index: int, guesses: Sequence[Guess], spent_ms: float = 0.0
    ) -> DraftProposed:
        before = [guess.token for guess in self.guesses[:index]]
        return DraftProposed(
            session=self.session,
            drafter=drafter,
            at=len(self.accepted) + index,
            prefix=extend(self._prefix(), before),
            tokens=[guess.token for guess in guesses],
            confidence=[round(min(1.0, guess.confidence), 3) for guess in guesses],
            more=not self.resting,
            draft_ms=round(spent_ms, 2),
        )


def _earlier(branch: Branch, by: int) -> Branch:
    branch.index -= by
    return branch
