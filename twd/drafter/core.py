"""What to draft next, for which sessions, and when to send it. No engine, no clock, no bus."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from twd.engine.window import Picker, Window
from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed, SessionOpened
from twd.wire.prefix import EMPTY, extend

CHUNK = 64
FLOOR = 0.3
FLOOR_BESIDE = 0.45
_FLIGHT_MS = 6.0


@dataclass(slots=True)
class Draft:
    """One session as a drafter sees it: what is accepted, and what it guessed beyond."""

    session: SessionId
    job: JobId
    accepted: list[int]
    hashes: list[int]
    picker: Picker
    credit: int
    floor: float
    beside: bool
    slot: int = -1
    fed: int = 0
    guesses: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    sent: int = 0
    spent_ms: float = 0.0
    told_rest: bool = False

    @property
    def length(self) -> int:
        """Accepted tokens and guesses."""
        return len(self.accepted) + len(self.guesses)

    @property
    def resting(self) -> bool:
        """Whether nothing more should be guessed before more is accepted."""
        if len(self.guesses) >= self.credit:
            return True
        return bool(self.confidence) and math.prod(self.confidence) < self.floor

    def token(self, at: int) -> int:
        """The token at a position of accepted text and guesses."""
        known = len(self.accepted)
        return self.accepted[at] if at < known else self.guesses[at - known]

    def span(self, start: int, end: int) -> tuple[int, ...]:
        """The tokens of some positions."""
        return tuple(self.token(at) for at in range(start, min(end, self.length)))


class DrafterCore:
    """All sessions that one drafter works for."""

    def __init__(self, name: InstanceId, slots: int, ctx_size: int) -> None:
        self.name = name
        self.slots = slots
        self.ctx_size = ctx_size
        self.drafts: dict[SessionId, Draft] = {}
        self.by_job: dict[JobId, Draft] = {}
        self._released: list[int] = []
        self._lost = False
        self.token_ms = 5.0

    # -- what comes in -------------------------------------------------------------------------

    def open(self, event: SessionOpened, picker: Picker, beside: bool) -> None:
        """A session wants guesses; one that is known already is brought up to date."""
        known = self.drafts.get(event.session)
        if known is not None:
            known.credit = max(known.credit, event.credit)
            self.accept(event.job, 0, event.tokens)
            return
        draft = Draft(
            session=event.session,
            job=event.job,
            accepted=list(event.tokens),
            hashes=_hashes(event.tokens),
            picker=picker,
            credit=event.credit,
            floor=FLOOR_BESIDE if beside else FLOOR,
            beside=beside,
        )
        self.close_job(event.job)
        self.drafts[event.session] = draft
        self.by_job[event.job] = draft

    def close(self, session: SessionId) -> None:
        """No more guesses are wanted."""
        draft = self.drafts.pop(session, None)
        if draft is None:
            return
        if self.by_job.get(draft.job) is draft:
            del self.by_job[draft.job]
        if draft.slot >= 0:
            self._released.append(draft.slot)

    def close_job(self, job: JobId) -> None:
        """The job ended, or another attempt at it began."""
        draft = self.by_job.get(job)
        if draft is not None:
            self.close(draft.session)

    def grant(self, event: DraftGranted) -> None:
        """The speculator says how far to run."""
        draft = self.drafts.get(event.session)
        if draft is not None and event.drafter == self.name:
            draft.credit, draft.floor = event.credit, event.floor
            draft.told_rest = False

    def accept(self, job: JobId, at: int, tokens: Sequence[int]) -> None:
        """The target decided: keep what agrees with it, forget what does not."""
        draft = self.by_job.get(job)
        if draft is None or not tokens:
            return
        if at > len(draft.accepted):  # a message was lost: guesses from here on would be for another text
            self._lost = True
            draft.guesses, draft.confidence, draft.sent, draft.credit = [], [], 0, 0
            return
        news = tokens[len(draft.accepted) - at :]
        if not news:
            return
        right = _common(draft.guesses, news)
        _settle(draft, right, news)
        draft.told_rest = False

    def take_lost(self) -> bool:
        """Whether some session must be told anew, since the last call."""
        lost, self._lost = self._lost, False
        return lost

    # -- what to compute -----------------------------------------------------------------------

    def waiting(self) -> list[Draft]:
        """Sessions without a slot, as many as there are slots for."""
        busy = sum(draft.slot >= 0 for draft in self.drafts.values()) + len(self._released)
        without = [draft for draft in self.drafts.values() if draft.slot < 0 and not draft.resting]
        return without[: max(0, self.slots - busy)]

    def opened(self, draft: Draft, slot: int, cached: int) -> None:
        """The engine holds a session's first tokens."""
        draft.slot, draft.fed = slot, cached

    def released(self) -> list[int]:
        """Slots that are free again."""
        slots, self._released = self._released, []
        return slots

    def plan(self) -> list[tuple[Draft, Window]]:
        """One token for every session that may run on; a prompt is read in chunks first."""
        steps = []
        for draft in self.drafts.values():
            if draft.slot < 0 or draft.resting or draft.length + 1 >= self.ctx_size:
                continue
            start = min(draft.fed, draft.length - 1)
            tokens = draft.span(start, start + CHUNK)
            last = start + len(tokens) == draft.length
            window = Window(draft.slot, 0, start, tokens, None, picks=last, committed=len(tokens))
            steps.append((draft, window))
        return steps

    def computed(self, draft: Draft, window: Window, token: int | None, confidence: float, spent_ms: float) -> None:
        """A step is done; nothing was told to the core in between."""
        draft.fed = window.at + len(window.tokens)
        if token is None:
            return
        draft.guesses.append(token)
        draft.confidence.append(confidence)
        draft.spent_ms += spent_ms
        self.token_ms += 0.1 * (spent_ms - self.token_ms)

    # -- what to send --------------------------------------------------------------------------

    def proposals(self) -> list[DraftProposed]:
        """Guesses that should travel now. One beside the target sends its whole run at once, one
        elsewhere sends as soon as a message is worth its flight."""
        messages = []
        for draft in self.drafts.values():
            fresh = len(draft.guesses) - draft.sent
            resting = draft.resting and not draft.told_rest
            enough = max(1, round(_FLIGHT_MS / max(self.token_ms, 0.1)))
            if resting or (fresh >= enough and not draft.beside):
                messages.append(self._proposal(draft))
        return messages

    def _proposal(self, draft: Draft) -> DraftProposed:
        at = len(draft.accepted) + draft.sent
        prefix = extend(draft.hashes[-1], draft.guesses[: draft.sent])
        message = DraftProposed(
            session=draft.session,
            drafter=self.name,
            at=at,
            prefix=prefix,
            tokens=draft.guesses[draft.sent :],
            confidence=[round(value, 3) for value in draft.confidence[draft.sent :]],
            more=not draft.resting,
            draft_ms=round(draft.spent_ms, 2),
        )
        draft.sent, draft.spent_ms = len(draft.guesses), 0.0
        draft.told_rest = draft.resting
        return message


def _settle(draft: Draft, right: int, news: Sequence[int]) -> None:
    """Move the border between accepted and guessed; drop the guesses if one of them was wrong."""
    draft.accepted += news
    for token in news:
        draft.hashes.append(extend(draft.hashes[-1], (token,)))
    if right == len(news):
        del draft.guesses[:right], draft.confidence[:right]
        draft.sent = max(0, draft.sent - right)
        return
    draft.fed = min(draft.fed, len(draft.accepted) - len(news) + right)
    draft.guesses, draft.confidence, draft.sent, draft.spent_ms = [], [], 0, 0.0


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _hashes(tokens: Sequence[int]) -> list[int]:
    values = [EMPTY]
    for token in tokens:
        values.append(extend(values[-1], (token,)))
    return values
