"""Decides what a drafter that uses another program's server requests next and proposes. No network, no clock, no bus.

It works on units: characters of the text, or tokens if the server has the target's vocabulary. A stream of units runs
ahead of the accepted text. If it differs from the accepted text, the guess and the stream are dropped.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from twd.wire.base import InstanceId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.prefix import extend, prefix_hash

Units = TypeVar("Units", str, tuple[int, ...])

MARGIN: Final = 8
"""Tokens requested beyond the credit, so that the next request is not needed at once."""
BEHIND_MAX: Final = 16
"""A stream that is more than this many tokens behind the target is replaced by one that starts at the end of the text.
"""
CREDIT_MAX: Final = 64
TEXT_MAX: Final = 2048
TOKENS_MAX: Final = 256
_CHARACTERS: Final = 4.0
"""Mean characters per token, roughly."""


@dataclass(frozen=True, slots=True)
class DraftRequest(Generic[Units]):
    """A request to continue these units for some tokens. `number` is the number of its stream."""

    number: int
    units: Units
    max_tokens: int


class RemoteDraft(Generic[Units]):
    """One session: the accepted units, the guess that follows them, and the stream that extends the guess."""

    per_token = 1.0
    """Units per token."""

    def __init__(self, event: SessionOpened, drafter: InstanceId) -> None:
        self.session, self.job = event.session, event.job
        self.credit = min(event.credit, CREDIT_MAX)
        self.stream = 0
        """The number of the running stream; 0: none runs."""
        self.known: Units = self.opened(event)
        self.guess: Units = self.known[:0]
        self._drafter = drafter
        self._tokens = len(event.tokens)
        self._hash = prefix_hash(event.tokens)
        self._tip = len(self.known)
        self._sent = 0
        self._numbers = 0
        self._ended = False
        self._told_rest = False
        self._lagging = False
        self._spent_ms = 0.0

    @abstractmethod
    def opened(self, event: SessionOpened) -> Units:
        """The units of a session, from its event."""

    # -- what comes in -------------------------------------------------------------------------

    def follow(self, event: SessionOpened) -> None:
        """The session was announced again because messages may have been lost: take over its state."""
        self.credit = min(event.credit, CREDIT_MAX)
        if len(event.tokens) <= self._tokens:
            return
        units = self.opened(event)
        self._tokens, self._hash = len(event.tokens), prefix_hash(event.tokens)
        if units[: len(self.known)] == self.known:
            self._settle(units[len(self.known) :])
        else:
            self.known = units
            self._restart()

    def accept(self, at: int, tokens: Sequence[int], units: Units) -> bool:
        """The target accepted tokens. Returns False if messages were lost, so that the session must be
        announced again.
        """
        if at + len(tokens) <= self._tokens:
            return True
        if at != self._tokens:
            self._restart()
            self.credit = 0
            return False
        self._lagging = not units  # text that may begin a stop string is held back: the end is unknown
        self._tokens += len(tokens)
        self._hash = extend(self._hash, tokens)
        self._settle(units)
        return True

    def _settle(self, news: Units) -> None:
        """Move the border between accepted units and the guess; drop the guess if it was wrong."""
        common = min(len(news), len(self.guess))
        right = self.guess[:common] == news[:common]
        over = self._ended and common < len(news)  # the target continues where the guess ended the text
        self.known = self.known + news
        self.guess = self.guess[common:]
        self._told_rest = False
        behind = len(self.known) - self._tip if self.stream else 0
        if not right or over or behind > BEHIND_MAX * self.per_token:
            self._restart()

    def _restart(self) -> None:
        self.guess = self.known[:0]
        self.stream, self._tip, self._ended = 0, len(self.known), False
        self._sent = min(self._sent, len(self.known))

    def grant(self, credit: int) -> None:
        """Set how many tokens to run ahead; 0 pauses the session."""
        self.credit = min(credit, CREDIT_MAX)
        if not self.credit:
            self.stream = 0

    def take(self, number: int, units: Units, ms: float) -> None:
        """The stream sent more units. A stream that is behind must first repeat the accepted text."""
        if number != self.stream or not units:
            return
        self._spent_ms += ms
        behind = max(0, len(self.known) - self._tip)
        if self.known[self._tip : self._tip + len(units)] != units[:behind]:
            self._restart()
            return
        self._tip += len(units)
        self.guess = self.guess + units[behind:]

    def finish(self, number: int, *, by_itself: bool) -> None:
        """The stream has ended: at its token limit, or because the model ended the text (`by_itself`)."""
        if number != self.stream:
            return
        self.stream, self._ended = 0, by_itself
        if self._tip < len(self.known):
            self._restart()

    # -- what goes out -------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether a request should be sent now."""
        ahead = len(self.guess) / self.per_token
        return not self.stream and not self._ended and self.credit > 0 and ahead <= self.credit / 2

    def ask(self) -> DraftRequest[Units]:
        """The next request; its stream continues where the guess ends."""
        self._numbers += 1
        self.stream, self._tip = self._numbers, len(self.known) + len(self.guess)
        wanted = round(self.credit + MARGIN - len(self.guess) / self.per_token)
        return DraftRequest(self.stream, self.known + self.guess, max(1, wanted))

    def proposal(self) -> DraftProposed | None:
        """The message to send now, or None: new guesses, or that none will follow before more is accepted."""
        start, end = max(0, self._sent - len(self.known)), self.certain()
        resting = not self.stream
        if self._lagging or (end <= start and (self._told_rest or not resting or not self.credit)):
            return None
        self._told_rest = resting
        self._sent = max(self._sent, len(self.known) + end)
        spent, self._spent_ms = self._spent_ms, 0.0
        return self.propose(start, max(start, end), more=not resting, draft_ms=round(spent, 2))

    def certain(self) -> int:
        """How many units of the guess will keep their tokens when more units follow."""
        return len(self.guess)

    @abstractmethod
    def propose(self, start: int, end: int, *, more: bool, draft_ms: float) -> DraftProposed:
        """A message with these units of the guess."""


class RemoteTextDraft(RemoteDraft[str]):
    """A draft as text. Token positions are known only at the end of the accepted text, so each proposal
    starts there.
    """

    per_token = _CHARACTERS

    def opened(self, event: SessionOpened) -> str:
        """The text, with control tokens spelled out."""
        return event.text

    def certain(self) -> int:
        """All words except the last one, which may continue; the whole guess if no stream runs."""
        return last_word(self.guess) if self.stream else len(self.guess)

    def propose(self, start: int, end: int, *, more: bool, draft_ms: float) -> DraftProposed:
        """A message with the guess as text."""
        text = self.guess[: min(end, TEXT_MAX)] if end > start else ""
        return DraftProposed(
            session=self.session,
            drafter=self._drafter,
            at=self._tokens,
            prefix=self._hash,
            text=text,
            more=more,
            draft_ms=draft_ms,
        )


class RemoteTokenDraft(RemoteDraft[tuple[int, ...]]):
    """A draft as tokens: only new tokens are sent."""

    def opened(self, event: SessionOpened) -> tuple[int, ...]:
        """The tokens."""
        return tuple(event.tokens)

    def propose(self, start: int, end: int, *, more: bool, draft_ms: float) -> DraftProposed:
        """A message with new tokens of the guess."""
        return DraftProposed(
            session=self.session,
            drafter=self._drafter,
            at=self._tokens + start,
            prefix=extend(self._hash, self.guess[:start]),
            tokens=list(self.guess[start : min(end, start + TOKENS_MAX)]),
            more=more,
            draft_ms=draft_ms,
        )


def last_word(text: str) -> int:
    """The index where the last word begins, with the space before it; everything before that index is complete."""
    at = len(text)
    while at > 0 and not text[at - 1].isspace():
        at -= 1
    return len(text[:at].rstrip())
