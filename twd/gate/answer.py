"""The answer of one member: its text, and what of it is scored. Pure."""

import re
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final

from twd.wire.job import FinishReason, JobFinished, Judge, TokensAccepted

CHARACTERS_A_TOKEN: Final = 4
TEXT_MAX: Final = 200_000
"""Characters; a member that writes more has failed."""
_WORD: Final = re.compile(r"\s+\S")


@dataclass(slots=True)
class Answer:
    """What a member has written so far, and the target's scores."""

    number: int
    member: str
    began: float
    text: str = ""
    heard: float = 0.0
    finished: JobFinished | None = None
    failed: bool = False
    sent: int = 0
    """The number of characters that the judge has got."""
    tokens: list[int] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tail: str = ""
    cut: FinishReason | None = None
    """The judge found the end before the member did: a stop string, or no tokens left."""
    stop: str = ""
    whole: bool = False
    """It is fully scored: up to its end, or up to a token that the rule does not allow."""

    def hear(self, event: TokensAccepted, now: float) -> None:
        """Add the next piece of text."""
        self.text += event.text
        self.heard = now if event.text else self.heard

    def end(self, event: JobFinished, now: float) -> None:
        """The member has finished. Text that it held back, or a stop string that ended it, is judged with the rest."""
        self.finished, self.heard = event, now
        self.text += event.tail + event.stop

    @property
    def empty(self) -> bool:
        """Whether there is nothing to judge."""
        return not self.text.strip()

    @property
    def endless(self) -> bool:
        """Whether it is longer than TEXT_MAX characters."""
        return len(self.text) > TEXT_MAX

    def next_piece(self, least: int) -> Judge | None:
        """The next piece to score: all the rest of a finished answer, else at least `least` characters up to the end of
        a word.
        """
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
        """Add scored tokens."""
        self.tokens += event.tokens
        self.shown += texts_of(event)
        self.gaps += [score.gap for score in event.scores]

    def judged_to(self, event: JobFinished, stop_above: float | None) -> None:
        """The judge has finished the last piece; `tail` is text that it held back."""
        if event.end_score is not None:
            self.gaps.append(event.end_score.gap)
        if event.stop or event.reason is FinishReason.LENGTH:
            self.cut, self.stop = event.reason, event.stop
        self.tail = event.tail
        over = stop_above is not None and any(gap > stop_above for gap in self.gaps)
        self.whole = over or self.cut is not None or (self.finished is not None and self.sent == len(self.text))

    def rest_behind(self, keep: int) -> str:
        """The member's text after its first `keep` tokens."""
        before = "".join(self.shown[:keep])
        return self.text[len(before) :] if self.text.startswith(before) else ""


def texts_of(event: TokensAccepted) -> list[str]:
    """The text of each token of a piece."""
    if len(event.lengths) != len(event.tokens):
        return [event.text, *[""] * (len(event.tokens) - 1)] if event.tokens else []
    ends = list(accumulate(event.lengths, initial=0))
    return [event.text[start:end] for start, end in pairwise(ends)]
