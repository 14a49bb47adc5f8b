"""One session: its tokens, the drafts beyond them, and how it ends."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

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

NGRAM, PREDICTION, GRAMMAR, RECALL, HEAD = "ngram", "prediction", "grammar", "recall", "head"
OWN = frozenset([NGRAM, PREDICTION, GRAMMAR, RECALL, HEAD])
"""Draft sources inside the speculator. All but the target's own head cost almost nothing."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What was prepared for a job before it reaches the core."""

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
    """Gives the forced tokens of the job's grammar, or the usual form of a call of its tools."""
    grammar: Grammar | None = None
    """The grammar in force, where it is not the job's grammar unchanged."""
    thoughts: Thoughts | None = None
    """How the answer may begin with thoughts."""
    judged: tuple[int, ...] | None = None
    """The given answer that is only scored."""


@dataclass(slots=True)
class InFlightWindow:
    """One window in flight, with its drafts in order. A chunk of the prompt has no drafts; only the last chunk picks a
    token."""

    at: int
    nodes: list[DraftNode]
    parents: list[int] | None
    picks: bool = True
    due: float = 0.0
    """When its result should arrive, in seconds of the clock; 0: not known."""


@dataclass(slots=True)
class SpeculationStats:
    """Counters of speculation in one session."""

    passes: int = 0
    checked_at: list[int] = field(default_factory=list)
    taken_at: list[int] = field(default_factory=list)
    by_drafter: dict[str, list[int]] = field(default_factory=dict)

    def count(self, drafters: Sequence[str], taken: int) -> None:
        """Count one verified window: the drafters of its drafts in order, and how many drafts were accepted."""
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
        """Drafts that the target verified."""
        return sum(self.checked_at)

    @property
    def taken(self) -> int:
        """Drafts that were accepted."""
        return sum(self.taken_at)


class Session:
    """The state of one job. Only the core changes it."""

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
        """The tokens of the given answer that are not scored yet; None: no answer was given."""
        self._begin_votes()
        self.end_score: TokenScore | None = None
        self.text = Detokenizer(opening.piece, [*job.stop, *opening.stops])
        self.text.feed(job.resume)
        self.tail = ""
        """Text that was held back until the end."""
        self.spec_stats = SpeculationStats()
        self.unsaid: list[JobStarted | TokensAccepted] = []
        """Events that wait to be published together with later ones."""
        self.told_open = False
        self._begin_drafts(opening, calibrations, ngram_match)
        self._begin_windows()
        self._begin_times(now)

    def _begin_drafts(self, opening: PreparedRequest, calibrations: dict[str, Calibration], ngram_match: int) -> None:
        known = self.tokens if self.speculates else []
        self.hashes = list(accumulate(known, lambda value, token: extend(value, (token,)), initial=EMPTY))
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
        """True: drafters stop and their drafts are not used, to measure the speed without them."""

    def _begin_windows(self) -> None:
        self.inflight_windows: deque[InFlightWindow] = deque()
        self.replay = 0
        """How many accepted tokens the target must compute again with the next window."""
        self.slot = -1
        self.epoch = 0
        self.fed = 0
        self.read_from = 0
        """The position at which the target began to read, behind the cached tokens."""
        self.cached = 0

    def _begin_times(self, now: float) -> None:
        self.submitted_at = now
        self.deadline = now + self.job.deadline_ms / 1000
        self.opened_at = -1.0
        self.first_at = -1.0
        self.accepted_at = now
        self.passed_at = now
        """When the last pass of this session ended. Tokens on which drafters agree are accepted between passes."""
        self.spoke_at = now

    def _begin_votes(self) -> None:
        self.unread = 0
        """Number of tokens at the end on which drafters agreed and which the target has not read yet."""
        self.agreed = 0
        """Number of all tokens on which drafters agreed."""
        self.unlike = 0
        """How many of them the target would not have picked."""
        self.misses = 0
        """How often in a row the wait for agreement ended without one."""
        self.missed_at = -1.0
        """The value of `accepted_at` when the last such wait ended."""
        self.ending: FinishReason | None = None
        """Why the text ends; set while the target still reads its last tokens."""
        self.vote: TokensAgreed | None = None
        """An agreement that came while a pass was in flight."""

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
        """How many accepted tokens the target has not read, without the last one."""
        return len(self.tokens) - 1 - self.fed

    @property
    def prefilling(self) -> bool:
        """Whether the target still reads the prompt (after a rebuild also the text), or scores a given answer."""
        return self.unfed > self.unread or self.judged is not None

    def ends_behind(self, given: int) -> bool:
        """Returns whether the end of the answer is scored together with the next `given` tokens: they are its last
        ones, and there is room for one more token."""
        judge = self.job.judge
        last = self.judged is not None and len(self.judged) == given and self.remaining > given
        return last and judge is not None and judge.ends

    @property
    def scored(self) -> bool:
        """Whether a given answer is completely scored."""
        return self.judged is not None and not self.judged and self.unfed == 0 and self._end_is_scored

    @property
    def _end_is_scored(self) -> bool:
        return self.end_score is not None or self.job.judge is None or not self.job.judge.ends

    @property
    def guessing(self) -> bool:
        """Whether a window is in flight whose result is not known. Prompt chunks that pick nothing do not count."""
        return bool(self.inflight_windows) and self.inflight_windows[-1].picks

    @property
    def drafted(self) -> bool:
        """Whether a drafter has credit for this session."""
        return any(link.credit for link in self.links.values())

    @property
    def stops(self) -> bool:
        """Whether a text may end the answer, so that each token must be looked at."""
        return self.text.stops

    @property
    def answer(self) -> list[int]:
        """The tokens made so far."""
        return self.tokens[self.prompt_len :]

    @property
    def answer_end(self) -> list[int]:
        """The last tokens of the answer, as many as matching needs."""
        return self.tokens[max(self.prompt_len, len(self.tokens) - MAX_MATCH) :]

    @property
    def recalls(self) -> bool:
        """Whether drafts may come from other answers, and this answer is kept for others."""
        return self.speculates and self.job.speculation.recall

    @property
    def speculates(self) -> bool:
        """Whether drafts are used for this job."""
        return self.job.speculation.enabled and self.judged is None

    def believe(self, drafter: str, confidence: float) -> float:
        """Returns the chance that a draft is accepted; 0 if it must not be used now."""
        return 0.0 if self.plain and drafter not in OWN else self.beliefs.chance(drafter, confidence)

    def hang(self, author: str, guesses: Sequence[int], sure: Sequence[float]) -> None:
        """Add an author's guesses behind the accepted text."""
        if guesses and self.speculates:
            self.tree.add(author, len(self.tokens), self.hashes[-1], guesses, sure)

    def place(self, at: int, prefix: int, tokens: Sequence[int]) -> int | None:
        """Returns how many of a draft's tokens the accepted text already holds; None: the draft contradicts the
        text."""
        if not 0 <= at < len(self.hashes) or self.hashes[at] != prefix:
            return None
        known = self.tokens[at : at + len(tokens)]
        return len(known) if list(tokens[: len(known)]) == known else None

    def beginnings(self, at: int, more: int) -> list[tuple[int, int]]:
        """Returns the hash of the first `at` tokens and their last one, and the same for `more` longer beginnings."""
        return [(self.hashes[end], self.tokens[end - 1]) for end in range(at, at + more + 1)]

    def overflow(self, ctx_size: int) -> str:
        """Returns why the job does not fit the context; empty: it does."""
        wanted = self.job.max_tokens
        if self.prompt_len >= ctx_size:
            return f"the prompt has {self.prompt_len} tokens and the context holds {ctx_size}"
        if wanted is not None and not self.job.at_most and self.prompt_len + wanted > ctx_size:
            return f"{self.prompt_len} prompt tokens and max_tokens {wanted} are more than the context of {ctx_size}"
        return ""

    def ended_before(self, ctx_size: int) -> FinishReason | None:
        """Returns why a resumed text is already complete, so that only its end event was lost; None: it goes on."""
        if self.text.hit is not None:
            return FinishReason.STOP
        return self.cut() if self.remaining <= 0 or len(self.tokens) >= ctx_size else None

    def cut(self) -> FinishReason:
        """End the text because there is no room. Text that was held back becomes the tail. Returns the reason."""
        self.tail = self.text.finish()
        return FinishReason.STOP if self.text.hit is not None else FinishReason.LENGTH

    def take(self, tokens: Sequence[int]) -> tuple[list[int], list[str], FinishReason | None]:
        """Accept tokens that the target chose. Returns the tokens that count, the text of each, and the reason of the
        end or None.

        The text of a token does not depend on the worker. Text that is held back until the end becomes the tail.
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
        """Returns the event for accepted tokens."""
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
        """Returns the counters and times of the job so far."""
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
    """Returns the tokens of a given answer that no earlier attempt has scored; None: no answer was given."""
    if answer is None or job.judge is None:
        return None
    return deque(answer[max(0, len(job.resume) - job.judge.behind) :])
