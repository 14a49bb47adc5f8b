"""The decisions of one request: whom to ask, what to judge, what to send and how it ends. No clock, no bus.

A request consists of numbered parts. Each part is one job that the gate owns: one for each member that is asked, and
one for each thing that the target does. A member's text is sent as soon as the rules allow it; the target's own text is
sent at once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from twd.gate.actions import Action, Ask, AskJudge, BeginAnswer, Break, End, FoundAnswer, Say, ScoreAnswer, Stop, Write
from twd.gate.answer import CHARACTERS_A_TOKEN, Answer, texts_of
from twd.gate.prompt_judge import InWords, JudgeReply
from twd.gate.spent import Spent
from twd.gate.verdict import Decision, Terms, decide, may_leave
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    AnswerVerdict,
    FinishReason,
    JobFinished,
    JobStarted,
    JobStats,
    JobSubmitted,
    Judge,
    Judged,
    TokensAccepted,
)

PIECE_MIN: Final = 64
"""Characters. While a text still grows, a shorter piece is not worth a forward pass."""


class GateJob:
    """The state of one request."""

    def __init__(self, job: JobSubmitted, terms: Terms, members: Sequence[str], now: float) -> None:
        self.job = job
        self.terms = terms
        self.spent = Spent()
        self.asked: list[str] = []
        self.rejected = 0
        self.ended = False
        self.judged = Judged(verdict=AnswerVerdict.EXACT)
        self._left = list(members)
        self._numbers = 0
        self._answers: dict[int, Answer] = {}
        self._judging: Answer | None = None
        self._judge = 0
        """The number of the part that scores or judges an answer; 0: none runs."""
        self._reading = 0
        self._writer = 0
        self._wrote: Answer | None = None
        """The member's answer whose beginning was kept when the target writes the rest."""
        self._said = 0
        self._place = len(job.resume)
        self._retries = terms.retries
        self._begun = False
        self._reply = JudgeReply()
        self._best = ""
        """The member's text that the target gets as a prediction."""

    # -- the beginning -------------------------------------------------------------------------

    def begin(self, now: float) -> list[Action]:
        """Ask the first members. Meanwhile the target reads the prompt."""
        if self.job.resume:
            return self._write("it goes on with a text that was begun elsewhere")
        if not self._left:
            return self._write("no member is there to ask")
        actions: list[Action] = []
        for _ in range(min(self.terms.ask, len(self._left))):
            actions += self._ask(now)
        if not self.terms.in_words:
            self._reading = self._number()
            actions.append(ScoreAnswer(self._reading, Judge()))
        return actions

    def pass_through(self, why: str) -> list[Action]:
        """Ask no member: the target writes the answer."""
        return self._write(why)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _ask(self, now: float) -> list[Action]:
        member = self._left.pop(0)
        number = self._number()
        self._answers[number] = Answer(number, member, now, heard=now)
        self.asked.append(member)
        return [Ask(number, member)]

    # -- events of the parts ------------------------------------------------------------------

    def started(self, number: int, event: JobStarted) -> list[Action]:
        """A part has started. The first suitable start event is passed on to the client."""
        if self._begun or (number in self._answers) is not self.terms.in_words:
            return []  # a judge that replies in words gets another prompt, so its start event does not fit
        self._begun = True
        self.spent.began(event)
        return [BeginAnswer(event)]

    def text(self, number: int, event: TokensAccepted, now: float) -> list[Action]:
        """A part sent text, or the scores of a text."""
        if self.ended:
            return []
        if number in self._answers:
            return self._hear(self._answers[number], event, now)
        if number == self._writer:
            return self._passed_on(event)
        if number == self._judge and self._judging is not None:
            if self.terms.in_words:
                self._reply.hear(event)
            else:
                self._judging.scored(event)
        return []

    def _hear(self, answer: Answer, event: TokensAccepted, now: float) -> list[Action]:
        answer.hear(event, now)
        if not answer.endless or answer.failed:
            return self._judge_next(now)
        answer.failed = True
        return [Stop(answer.number), *self._give_up(answer, "it does not end", now)]

    def finished(self, number: int, event: JobFinished, now: float) -> list[Action]:
        """A part has finished."""
        if self.ended:
            return []
        if number in self._answers:
            self.spent.by_member(event.stats)
            self._answers[number].end(event, now)
            return self._judge_next(now)
        self.spent.by_target(event.stats, judging=number == self._judge)
        if number == self._writer:
            return self._end(event)
        if number == self._reading:
            self._reading = 0
            return self._judge_next(now)
        if number != self._judge or self._judging is None:
            return []
        answer, self._judge = self._judging, 0
        if self.terms.in_words:
            return self._in_words(answer, now)
        answer.judged_to(event, self.terms.rule_of(answer.member).stop_above)
        return self._look(answer, now)

    def failed(self, number: int, failure: Failure, now: float) -> list[Action]:
        """A part has failed."""
        if self.ended:
            return []
        if number in self._answers:
            self._answers[number].failed = True
            return self._give_up(self._answers[number], failure.message, now)
        if number == self._writer:
            return self._break(failure)
        if number == self._reading:
            self._reading = 0
            return self._unjudged(failure.message) if failure.code is FailureCode.UNSUPPORTED else self._judge_next(now)
        return self._unjudged(failure.message) if number == self._judge else []

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float, late_s: float) -> list[Action]:
        """Ask one more member if all that were asked are late; give up members that are silent."""
        if self.ended or self._writer or self._judge:
            return []
        actions: list[Action] = []
        waiting = [one for one in self._answers.values() if not one.failed and one.finished is None]
        for answer in waiting:
            if now - answer.heard >= self.terms.patience_s:
                answer.failed = True
                actions += [Stop(answer.number), *self._give_up(answer, "it says nothing", now)]
        late = [one for one in waiting if not one.failed and now - one.began >= late_s]
        if late and len(late) == len(waiting) and self._left and not self._said and not self.ended:
            actions += self._ask(now)
        return actions

    # -- judging -------------------------------------------------------------------------------

    def _judge_next(self, now: float) -> list[Action]:
        """Start to judge an answer if no judging runs and some text is ready for it."""
        if self._judge or self._reading or self._writer or self.ended:
            return []  # the prompt is still being read: a second session would read it again
        answer = self._judging or self._candidate()
        if answer is None:
            return []
        if answer.finished is not None and answer.empty:
            return self._refuse(answer, "it is empty", now)
        if self.terms.in_words:
            return self._judge_in_words(answer)
        least = max(PIECE_MIN, self.terms.hold // 2 * CHARACTERS_A_TOKEN)
        piece = answer.next_piece(least) if self.terms.hold or answer.finished is not None else None
        if piece is None:
            return []
        self._judging, self._judge = answer, self._number()
        stop_above = self.terms.rule_of(answer.member).stop_above
        judge = Judge(text=piece.text, behind=piece.behind, ends=piece.ends, stop_above=stop_above)
        return [ScoreAnswer(self._judge, judge, list(answer.tokens))]

    def _candidate(self) -> Answer | None:
        """The answer to judge next: a finished one, or, where pieces may be sent, the longest one."""
        live = [one for one in self._answers.values() if not one.failed]
        whole = [one for one in live if one.finished is not None]
        if whole or not self.terms.hold:
            return whole[0] if whole else None
        return max(live, key=lambda one: len(one.text), default=None)

    def _look(self, answer: Answer, now: float) -> list[Action]:
        """Decide by the scores so far: a verdict if the answer is fully scored, else which tokens may be sent."""
        rule = self.terms.rule_of(answer.member)
        if answer.whole:
            return self._decided(answer, decide(answer.gaps, len(answer.tokens), rule, self._said), now)
        ready = min(may_leave(answer.gaps, rule, self.terms.hold), len(answer.tokens))
        return [*self._say_kept(answer, ready), *self._judge_next(now)]

    def _decided(self, answer: Answer, decision: Decision, now: float) -> list[Action]:
        match decision.verdict:
            case AnswerVerdict.APPROVE:
                return self._approve(answer, decision)
            case AnswerVerdict.CORRECT:
                return self._correct(answer, decision)
            case _:
                return self._refuse(answer, "too little of it would stand", now, decision.score)

    def _approve(self, answer: Answer, decision: Decision) -> list[Action]:
        self._verdict(answer, AnswerVerdict.APPROVE, decision)
        said = self._say_kept(answer, len(answer.tokens))
        reason = answer.cut or (answer.finished.reason if answer.finished is not None else FinishReason.STOP)
        end = JobFinished(
            job=self.job.job,
            attempt=self.job.attempt,
            reason=reason,
            stats=JobStats(),
            tail=answer.tail,
            stop=answer.stop or (answer.finished.stop if answer.finished is not None else ""),
        )
        found = FoundAnswer(answer.member, 1.0, AnswerVerdict.APPROVE)
        return [found, *self._stop_all(but=0), *said, *self._end(end)]

    def _correct(self, answer: Answer, decision: Decision) -> list[Action]:
        self._verdict(answer, AnswerVerdict.CORRECT, decision)
        said = self._say_kept(answer, decision.keep)
        self._wrote = answer
        share = decision.keep / max(1, len(answer.tokens))
        found = FoundAnswer(answer.member, share, AnswerVerdict.CORRECT)
        number = self._writer = self._number()
        write = Write(number, answer.tokens[: decision.keep], answer.rest_behind(decision.keep))
        return [found, *self._stop_all(but=number), *said, write]

    def _refuse(self, answer: Answer, why: str, now: float, score: float | None = None) -> list[Action]:
        answer.failed, self._judging = True, None
        self.rejected += 1
        self._best = self._best or answer.text
        self.judged = Judged(verdict=AnswerVerdict.REJECT, member=answer.member, score=score, why=why)
        found: list[Action] = [FoundAnswer(answer.member, 0.0, AnswerVerdict.REJECT), Stop(answer.number)]
        return [*found, *self._another(why, now)]

    def _give_up(self, answer: Answer, why: str, now: float) -> list[Action]:
        """A member failed. If a part of its text was sent already, the target writes the rest."""
        if answer is self._judging and self._said:
            return [*self._correct(answer, self._so_far(answer)), FoundAnswer(answer.member, 0.0, "failed")]
        stopped: list[Action] = []
        if answer is self._judging:
            stopped = [Stop(self._judge)] if self._judge else []
            self._judging, self._judge = None, 0
        failed = FoundAnswer(answer.member, 0.0, "failed")
        return [*stopped, failed, *self._another(f"{answer.member}: {why}", now)]

    def _so_far(self, answer: Answer) -> Decision:
        """The decision on an answer that is not judged further: which of its tokens stay."""
        found = decide(answer.gaps, len(answer.tokens), self.terms.rule_of(answer.member), self._said)
        return replace(found, verdict=AnswerVerdict.CORRECT)

    def _another(self, why: str, now: float) -> list[Action]:
        """Judge another answer, or wait for one, or ask one more member; if none is left, the target writes."""
        following = self._judge_next(now)
        if following or any(not one.failed for one in self._answers.values()):
            return following
        if self._left and self._retries > 0:
            self._retries -= 1
            return self._ask(now)
        return self._write(why)

    def _verdict(self, answer: Answer, verdict: AnswerVerdict, decision: Decision) -> None:
        self.judged = Judged(
            verdict=verdict,
            approximate=decision.unlike > 0,
            member=answer.member,
            score=round(decision.score, 6),
            kept=decision.keep,
            unlike=decision.unlike,
        )

    # -- judging in words ----------------------------------------------------------------------

    def _judge_in_words(self, answer: Answer) -> list[Action]:
        if answer.finished is None:
            return []
        self._judging, self._judge, self._reply = answer, self._number(), JudgeReply()
        return [AskJudge(self._judge, answer.text.removesuffix(answer.finished.stop))]

    def _in_words(self, answer: Answer, now: float) -> list[Action]:
        match self._reply.verdict:
            case InWords.APPROVE:
                return self._passed_whole(answer, AnswerVerdict.APPROVE, "")
            case InWords.CORRECT:
                self._best = answer.text
                self.judged = Judged(verdict=AnswerVerdict.CORRECT, member=answer.member)
                found = FoundAnswer(answer.member, 0.5, AnswerVerdict.CORRECT)
                return [found, *self._write("", keep_verdict=True)]
            case InWords.REJECT:
                return self._refuse(answer, "the judge rejected it", now)
            case _:
                return self._unjudged("the judge gave no verdict")

    def _unjudged(self, why: str) -> list[Action]:
        """No verdict is possible: the target writes, or, with `fail_open`, the answer is sent unjudged."""
        answer = self._judging
        self._judge = 0
        if self.terms.fail_open and answer is not None and answer.finished is not None and not self._said:
            return self._passed_whole(answer, AnswerVerdict.UNJUDGED, why)
        if answer is not None and self._said:
            return self._correct(answer, self._so_far(answer))
        self._best = answer.text if answer is not None else ""
        return self._write(why)

    def _passed_whole(self, answer: Answer, verdict: AnswerVerdict, why: str) -> list[Action]:
        """Send a whole answer as text: its tokens are not known."""
        assert answer.finished is not None
        score = self._reply.chance if verdict is AnswerVerdict.APPROVE else None
        self.judged = Judged(verdict=verdict, approximate=True, member=answer.member, score=score, why=why)
        stop = answer.finished.stop
        text = answer.text.removesuffix(stop)
        stats = answer.finished.stats
        end = JobFinished(
            job=self.job.job, attempt=self.job.attempt, reason=answer.finished.reason, stats=stats, stop=stop
        )
        found = FoundAnswer(answer.member, 1.0, verdict)
        return [found, *self._stop_all(but=0), Say([], text, author=answer.member), *self._end(end)]

    # -- what is sent --------------------------------------------------------------------------

    def _say_kept(self, answer: Answer, up_to: int) -> list[Action]:
        """Send the tokens of a member's answer up to the token number `up_to`."""
        if up_to <= self._said:
            return []
        tokens, shown = answer.tokens[self._said : up_to], answer.shown[self._said : up_to]
        self._said = up_to
        self._place += len(tokens)
        return [Say(tokens, "".join(shown), [len(text) for text in shown], answer.member)]

    def _passed_on(self, event: TokensAccepted) -> list[Action]:
        if not event.tokens and not event.text:
            return []
        self._place += len(event.tokens)
        lengths = event.lengths if event.lengths else [len(text) for text in texts_of(event)]
        return [Say(event.tokens, event.text, lengths)]

    def _write(self, why: str, *, keep_verdict: bool = False) -> list[Action]:
        """The target writes the whole answer, or continues the tokens of an earlier attempt."""
        if not keep_verdict and self.judged.verdict is not AnswerVerdict.REJECT:
            self.judged = Judged(verdict=AnswerVerdict.EXACT, why=why)
        number = self._writer = self._number()
        return [*self._stop_all(but=number), Write(number, list(self.job.resume), self._best)]

    def _stop_all(self, but: int) -> list[Action]:
        """Stop all running parts except `but`."""
        parts = [one.number for one in self._answers.values() if one.finished is None]
        parts += [number for number in (self._judge, self._reading) if number]
        self._judge = self._reading = 0
        return [Stop(number) for number in parts if number != but]

    # -- the end -------------------------------------------------------------------------------

    def _end(self, event: JobFinished) -> list[Action]:
        self.ended = True
        return [End(event, self.judged)]

    def _break(self, failure: Failure) -> list[Action]:
        self.ended = True
        return [*self._stop_all(but=0), Break(failure)]

    def cancel(self, why: str) -> list[Action]:
        """Stop everything: the client does not want the answer any more."""
        if self.ended:
            return []
        parts = [Stop(self._writer)] if self._writer else []
        return [*parts, *self._break(Failure(code=FailureCode.CANCELLED, message=why or "cancelled"))]

    @property
    def tokens_told(self) -> bool:
        """Whether the client got tokens, and not only text."""
        return self._place > 0

    def stats(self, decode_ms: float) -> JobStats:
        """The statistics that the client gets."""
        scored = max((len(one.tokens) for one in self._answers.values()), default=0)
        return self.spent.stats(self.judged, scored, self._place, decode_ms)
