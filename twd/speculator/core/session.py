"""One text in the making: its tokens, the guesses beyond them, and how it ends."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.chat.text import Detokenizer
from twd.decoding.window import Report, Sampler
from twd.drafting.calibration import Calibration
from twd.drafting.continuation import KnownContinuation
from twd.drafting.history_ngram import MAX_MATCH
from twd.drafting.ngram import MIN_MATCH, NgramIndex
from twd.drafting.prediction import Prediction
from twd.speculator.core.acceptance import AcceptanceEstimates
from twd.speculator.core.draft_tree import DraftNode, DraftTree
from twd.speculator.drafters.drafter_link import DrafterLink
from twd.wire.base import InstanceId, SessionId
from twd.wire.job import (
    DrafterShare,
    FinishReason,
    Grammar,
    JobStarted,
    JobStats,
    JobSubmitted,
    Thoughts,
    TokenLogprob,
    TokensAccepted,
    TokenScore,
)
from twd.wire.judging import TokensAgreed
from twd.wire.prefix import EMPTY, extend

NGRAM, PREDICTION, GRAMMAR, RECALL = "ngram", "prediction", "grammar", "recall"
OWN = frozenset([NGRAM, PREDICTION, GRAMMAR, RECALL])
"""Who guesses here, for next to nothing."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What the shell worked out for a job before it reaches the core."""

    session: SessionId
    tokens: list[int]
    sampler: Sampler
    piece: Callable[[int], bytes]
    end_tokens: frozenset[int]
    seed: int
    report: Report | None = None
    stops: tuple[str, ...] = ()
    prediction: Prediction | None = None
    ahead: KnownContinuation | None = None
    """Tells what the job's grammar leaves no choice about, or what a call of its tools looks like."""
    grammar: Grammar | None = None
    """What holds the text, where that is not the job's grammar as it stands."""
    thoughts: Thoughts | None = None
    """How the answer may begin to think."""
    judged: tuple[int, ...] | None = None
    """The given answer that is only scored."""


@dataclass(slots=True)
class InFlightWindow:
    """One window on its way, with its guesses in order; a chunk of the prompt has none and picks nothing."""

    at: int
    nodes: list[DraftNode]
    parents: list[int] | None
    picks: bool = True
    due: float = 0.0
    """When its verdict should be here, as far as that is known."""


@dataclass(slots=True)
class SpeculationStats:
    """What speculation did in one session, counted."""

    passes: int = 0
    checked_at: list[int] = field(default_factory=list)
    taken_at: list[int] = field(default_factory=list)
    by_drafter: dict[str, list[int]] = field(default_factory=dict)

    def count(self, drafters: Sequence[str], taken: int) -> None:
        """A window was checked: its guesses' drafters in order, and how many held."""
        while len(self.checked_at) < len(drafters):
            self.checked_at.append(0)
            self.taken_at.append(0)
        for i, drafter in enumerate(drafters):
            share = self.by_drafter.setdefault(drafter, [0, 0])
            self.checked_at[i] += 1
            share[0] += 1
            if i < taken:
                self.taken_at[i] += 1
                share[1] += 1

    @property
    def checked(self) -> int:
        """Guesses that went through the target."""
        return sum(self.checked_at)

    @property
    def taken(self) -> int:
        """Guesses that became text."""
        return sum(self.taken_at)


class Session:
    """The state of one job; the core moves it."""

    def __init__(
        self,
        job: JobSubmitted,
        opening: PreparedRequest,
        calibrations: dict[str, Calibration],
        now: float,
        ngram_match: int = MIN_MATCH,
    ) -> None:
        self.job = job
        self.id = opening.session
        self.seed = opening.seed
        self.sampler = opening.sampler
        self.report = opening.report
        self.grammar = opening.grammar or job.grammar
        self.thoughts = opening.thoughts
        self.end_tokens: frozenset[int] = frozenset() if job.ignore_eos else opening.end_tokens
        self.tokens = [*opening.tokens, *job.resume]
        self.prompt_len = len(opening.tokens)
        self.judged = _left_to_judge(job, opening.judged)
        """What is still to be scored of the answer that was given, if one was."""
        self.unread = 0
        """Tokens at the end on which drafters agreed, and which the target has not read yet."""
        self.agreed = 0
        """All tokens on which drafters agreed."""
        self.unlike = 0
        """Those of them that the target would not have picked."""
        self.misses = 0
        """How often in a row agreement was waited for in vain."""
        self.vote: TokensAgreed | None = None
        """What came while a pass was under way."""
        self.end_score: TokenScore | None = None
        self.text = Detokenizer(opening.piece, [*job.stop, *opening.stops])
        self.text.feed(job.resume)
        self.tail = ""
        """What the text held back when it ended."""
        known = self.tokens if self.speculates else []  # what follows serves guesses alone
        self.hashes = [EMPTY]
        self._extend_hashes(known)
        self.tree = DraftTree(len(known), self.hashes[-1])
        self.ngram = NgramIndex(ngram_match)
        self.ngram.extend(known)
        self.prediction = (opening.prediction if self.speculates else None) or Prediction(())
        self.prediction.extend(known[self.prompt_len :])
        self.ahead = opening.ahead if self.speculates else None
        if self.ahead is not None:
            self.ahead.extend(known[self.prompt_len :])
        self.beliefs = AcceptanceEstimates(calibrations)
        self.links: dict[InstanceId, DrafterLink] = {}
        self.plain = False
        """Drafters rest and their guesses are left alone, to see how quick it is without them."""
        self.inflight_windows: deque[InFlightWindow] = deque()
        self.replay = 0
        """How many tokens of the text the target must compute again with the next window."""
        self.slot = -1
        self.epoch = 0
        self.fed = 0
        self.read_from = 0
        """Where the target began to read, behind what it had kept."""
        self.cached = 0
        self.told_open = False
        self.submitted_at = now
        self.deadline = now + job.deadline_ms / 1000
        self.opened_at = -1.0
        self.first_at = -1.0
        self.accepted_at = now
        self.spoke_at = now
        self.unsaid: list[JobStarted | TokensAccepted] = []
        """What waits for more to tell, so that it travels together."""
        self.spec_stats = SpeculationStats()

    def _extend_hashes(self, tokens: Sequence[int]) -> None:
        value = self.hashes[-1]
        for token in tokens:
            value = extend(value, (token,))
            self.hashes.append(value)

    @property
    def generated(self) -> int:
        """Tokens made so far, by this attempt and those before it."""
        return len(self.tokens) - self.prompt_len

    @property
    def remaining(self) -> int:
        """How many tokens may still be made."""
        if self.job.max_tokens is None:
            return 1 << 30
        return self.job.max_tokens - self.generated

    @property
    def unfed(self) -> int:
        """Accepted tokens, but the last, that the target has not seen."""
        return len(self.tokens) - 1 - self.fed

    @property
    def prefilling(self) -> bool:
        """Whether the target still reads what it did not write."""
        return self.unfed > self.unread or self.judged is not None

    def ends_behind(self, given: int) -> bool:
        """Whether the end is scored together with so many tokens of a given answer: they are its last, and room is
        left for more."""
        judge = self.job.judge
        last = self.judged is not None and len(self.judged) == given and self.remaining > given
        return last and judge is not None and judge.ends

    @property
    def scored(self) -> bool:
        """Whether nothing is left to do for an answer that was given."""
        return self.judged is not None and not self.judged and self.unfed == 0 and self._end_is_scored

    @property
    def _end_is_scored(self) -> bool:
        return self.end_score is not None or self.job.judge is None or not self.job.judge.ends

    @property
    def guessing(self) -> bool:
        """Whether a window is under way of which it is not known how it ends; chunks of the prompt leave no doubt."""
        return bool(self.inflight_windows) and self.inflight_windows[-1].picks

    @property
    def drafted(self) -> bool:
        """Whether a drafter may run ahead of it."""
        return any(link.credit for link in self.links.values())

    @property
    def answer(self) -> list[int]:
        """The tokens made so far."""
        return self.tokens[self.prompt_len :]

    @property
    def answer_end(self) -> list[int]:
        """The last of them, as many as comparing needs."""
        return self.tokens[max(self.prompt_len, len(self.tokens) - MAX_MATCH) :]

    @property
    def recalls(self) -> bool:
        """Whether other answers are looked into for it, and it for others."""
        return self.speculates and self.job.speculation.recall

    @property
    def speculates(self) -> bool:
        """Whether guesses are wanted at all."""
        return self.job.speculation.enabled and self.judged is None

    def believe(self, drafter: str, confidence: float) -> float:
        """The chance of a guess that may be checked now."""
        return 0.0 if self.plain and drafter not in OWN else self.beliefs.chance(drafter, confidence)

    def place(self, at: int, prefix: int, tokens: Sequence[int]) -> int | None:
        """How many of a draft's tokens the accepted text already holds; None when it contradicts the text."""
        if not 0 <= at < len(self.hashes) or self.hashes[at] != prefix:
            return None
        known = self.tokens[at : at + len(tokens)]
        return len(known) if list(tokens[: len(known)]) == known else None

    def ended_before(self, ctx_size: int) -> FinishReason | None:
        """Why a text that was taken over is whole already: then only its end was lost."""
        if self.text.hit is not None:
            return FinishReason.STOP
        return self.cut() if self.remaining <= 0 or len(self.tokens) >= ctx_size else None

    def cut(self) -> FinishReason:
        """There is no room for more: what was held back becomes the tail."""
        self.tail = self.text.finish()
        return FinishReason.STOP if self.text.hit is not None else FinishReason.LENGTH

    def take(self, tokens: Sequence[int]) -> tuple[list[int], list[str], FinishReason | None]:
        """Accept what the target chose: the tokens that count, the text of each, and the end if it is one.

        The text of a token is the same whichever worker says it; what was held back to the end becomes the tail.
        """
        kept: list[int] = []
        shown: list[str] = []
        for token in tokens:
            if token in self.end_tokens:
                self.tail = self.text.finish()
                return kept, shown, FinishReason.STOP
            kept.append(token)
            self._append(token)
            shown.append(self.text.feed((token,)))
            if self.text.hit is not None:
                return kept, shown, FinishReason.STOP
            if self.remaining <= 0:
                return kept, shown, self.cut()
        return kept, shown, None

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        if not self.speculates:
            return
        guesses = self.tree.root.children
        surest: dict[str, float] = {}
        for child in guesses.values():
            for drafter, confidence in child.votes.items():
                surest[drafter] = max(surest.get(drafter, 0.0), confidence)
        for guess, child in guesses.items():
            for drafter, confidence in child.votes.items():
                self.beliefs.learn(drafter, confidence, guess == token, first=confidence >= surest[drafter])
        self.hashes.append(extend(self.hashes[-1], (token,)))
        self.tree.advance(token)
        self.ngram.extend((token,))
        self.prediction.extend((token,))
        if self.ahead is not None:
            self.ahead.extend((token,))

    def accepted(
        self, at: int, index: int, tokens: list[int], shown: Sequence[str], logprobs: Sequence[TokenLogprob] = ()
    ) -> TokensAccepted:
        """What to tell of tokens that the target chose."""
        return TokensAccepted(
            job=self.job.job,
            attempt=self.job.attempt,
            session=self.id,
            at=at,
            index=index,
            tokens=tokens,
            text="".join(shown),
            logprobs=list(logprobs),
            lengths=[len(text) for text in shown] if self.thoughts is not None or self.judged is not None else [],
        )

    def stats(self, now: float) -> JobStats:
        """What the job cost so far."""
        opened = self.opened_at if self.opened_at >= 0 else now
        first = self.first_at if self.first_at >= 0 else now
        return JobStats(
            prompt_tokens=self.prompt_len,
            cached_tokens=self.cached,
            completion_tokens=self.generated,
            passes=self.spec_stats.passes,
            checked=self.spec_stats.checked,
            taken=self.spec_stats.taken,
            checked_at=list(self.spec_stats.checked_at),
            taken_at=list(self.spec_stats.taken_at),
            drafters=[
                DrafterShare(drafter=name, checked=checked, taken=taken)
                for name, (checked, taken) in sorted(self.spec_stats.by_drafter.items())
            ],
            predicted=len(self.prediction),
            foretold=min(self.prediction.held, len(self.prediction)),
            queued_ms=round((opened - self.submitted_at) * 1000, 3),
            prefill_ms=round((first - opened) * 1000, 3),
            decode_ms=round((now - first) * 1000, 3),
        )


def _left_to_judge(job: JobSubmitted, answer: tuple[int, ...] | None) -> deque[int] | None:
    """What of a given answer an earlier attempt has not scored."""
    if answer is None or job.judge is None:
        return None
    return deque(answer[max(0, len(job.resume) - job.judge.behind) :])
