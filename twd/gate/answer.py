"""One member's answer: what came of it, and what of it is scored. Pure."""

import re
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final

from twd.wire.job import FinishReason, JobFinished, Judge, TokensAccepted

CHARACTERS_A_TOKEN: Final = 4
TEXT_MAX: Final = 200_000
"""Characters; a member that writes more does not end."""
_WORD: Final = re.compile(r"\s+\S")


@dataclass(slots=True)
class Answer:
    """What a member wrote so far, and what the target thinks of it."""

    number: int
    member: str
    began: float
    text: str = ""
    heard: float = 0.0
    finished: JobFinished | None = None
    failed: bool = False
    sent: int = 0
    """Characters that were handed to the judge."""
    tokens: list[int] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tail: str = ""
    cut: FinishReason | None = None
    """The judge found its end before the member did: by a stop string, or for want of tokens."""
    stop: str = ""
    whole: bool = False
    """All of it is scored, up to the end or to what cannot stand."""

    def hear(self, event: TokensAccepted, now: float) -> None:
        """The next piece of text."""
        self.text += event.text
        self.heard = now if event.text else self.heard

    def end(self, event: JobFinished, now: float) -> None:
        """The member is done. A stop string that ended its text belongs to what is judged."""
        self.finished, self.heard = event, now
        self.text += event.stop

    @property
    def empty(self) -> bool:
        """Whether there is nothing to judge."""
        return not self.text.strip()

    @property
    def endless(self) -> bool:
        """Whether it is longer than anything that is judged."""
        return len(self.text) > TEXT_MAX

    def next_piece(self, least: int) -> Judge | None:
        """What to score next: all of an answer that is whole, else at least so many characters, up to a word's end."""
        if self.finished is not None:
            ends = self.finished.reason is FinishReason.STOP and not self.finished.stop
            piece = Judge(text=self.text[self.sent :], behind=len(self.tokens), ends=ends)
            self.sent = len(self.text)
            return piece
        if len(self.text) - self.sent < least:
            return None
        words = [match.start() for match in _WORD.finditer(self.text, self.sent + 1)]
        if not words:
            return None
        piece = Judge(text=self.text[self.sent : words[-1]], behind=len(self.tokens))
        self.sent = words[-1]
        return piece

    def scored(self, event: TokensAccepted) -> None:
        """The judge tells of some tokens."""
        self.tokens += event.tokens
        self.shown += texts_of(event)
        self.gaps += [score.gap for score in event.scores]

    def judged_to(self, event: JobFinished, stop_above: float | None) -> None:
        """The judge has done what was asked of it last; `tail` is what it held back."""
        if event.end_score is not None:
            self.gaps.append(event.end_score.gap)
        if event.stop or event.reason is FinishReason.LENGTH:
            self.cut, self.stop = event.reason, event.stop
        self.tail = event.tail
        over = stop_above is not None and any(gap > stop_above for gap in self.gaps)
        self.whole = over or self.cut is not None or (self.finished is not None and self.sent == len(self.text))

    def rest_behind(self, keep: int) -> str:
        """What the member wrote behind so many of its tokens."""
        before = "".join(self.shown[:keep])
        return self.text[len(before) :] if self.text.startswith(before) else ""


def texts_of(event: TokensAccepted) -> list[str]:
    """The text of each token of a piece."""
    if len(event.lengths) != len(event.tokens):
        return [event.text, *[""] * (len(event.tokens) - 1)] if event.tokens else []
    ends = list(accumulate(event.lengths, initial=0))
    return [event.text[start:end] for start, end in pairwise(ends)]
