"""The events of one session: it started, tokens of a given answer were scored, it ended."""

from twd.decoding.window import VerifyResult
from twd.speculator.core.limits import SpeculatorIdentity
from twd.speculator.core.session import Session
from twd.wire.base import InstanceId
from twd.wire.draft import DeviceKind, SessionOpened
from twd.wire.failures import Failure
from twd.wire.job import (
    FinishReason,
    Grammar,
    JobFailed,
    JobFinished,
    JobStarted,
    Judged,
    TokensAccepted,
    TokenScore,
)

GRAMMAR_MAX = 65_536
"""Longest grammar, in characters, that is sent to drafters. Without it they draft without the grammar."""


def started(session: Session, identity: SpeculatorIdentity) -> JobStarted:
    """Returns the event that the session started to read its prompt."""
    return JobStarted(
        job=session.job.job,
        attempt=session.job.attempt,
        session=session.id,
        model=identity.model,
        prompt_tokens=session.prompt_len,
        cached_tokens=session.cached,
        seed=session.seed,
        fingerprint=identity.fingerprint,
        thoughts=session.thoughts,
    )


def opened(
    session: Session, identity: SpeculatorIdentity, drafter: InstanceId, credit: int, device: DeviceKind, text: str
) -> SessionOpened:
    """Returns the event that opens the session for one drafter; it is addressed to that drafter only."""
    grammar = session.grammar
    return SessionOpened(
        job=session.job.job,
        session=session.id,
        model=identity.model,
        speculator=identity.speculator,
        node=identity.node,
        tokens=list(session.tokens),
        vocab=identity.vocab,
        sampling=session.job.sampling,
        seed=session.seed,
        credit=credit,
        device=device,
        text=text,
        prompt_tokens=session.prompt_len,
        grammar=_if_short(grammar),
        ignore_eos=session.job.ignore_eos,
        reading=session.first_at < 0,
        drafter=drafter,
    )


def _if_short(grammar: Grammar | None) -> Grammar | None:
    return grammar if grammar is not None and len(grammar.text) <= GRAMMAR_MAX else None


def take_scores(
    session: Session, verdict: VerifyResult, now: float, ctx_size: int
) -> tuple[TokensAccepted | None, FinishReason | None]:
    """Take the scores of some tokens of a given answer. Returns the event to publish or None, and the reason if the
    job is done."""
    assert session.judged is not None
    assert session.job.judge is not None
    if session.first_at < 0 and verdict.scores:
        session.first_at = now
    place = (len(session.tokens), session.generated)
    for _ in verdict.tokens:
        session.judged.popleft()
    kept, shown, end = session.take(verdict.tokens)
    scores = [TokenScore(gap=one.gap, logprob=one.logprob, entropy=one.entropy) for one in verdict.scores]
    if len(scores) > len(kept) and (end is None or (end is FinishReason.STOP and session.text.hit is None)):
        session.end_score = scores[len(kept)]  # of the end behind the text, or of an end token in it
    if len(session.tokens) >= ctx_size and end is None:
        end = session.cut()
    session.fed = len(session.tokens) - 1
    most = session.job.judge.stop_above
    above = most is not None and any(one.gap > most for one in scores)
    piece = session.accepted(*place, kept, shown)
    over = above or session.scored
    told = TokensAccepted(
        job=piece.job,
        attempt=piece.attempt,
        session=piece.session,
        at=piece.at,
        index=piece.index,
        tokens=kept,
        text=piece.text,
        lengths=piece.lengths,
        scores=scores[: len(kept)],
    )
    if over and end is None:
        session.tail = session.text.finish()
    return told if kept else None, end or (FinishReason.STOP if over else None)


def finished(session: Session, reason: FinishReason, now: float, judged: Judged | None) -> JobFinished:
    """Returns the event that the text is complete."""
    return JobFinished(
        job=session.job.job,
        attempt=session.job.attempt,
        reason=reason,
        stats=session.stats(now),
        seed=session.seed,
        tail=session.tail,
        stop=session.text.hit.stop if session.text.hit is not None else "",
        session=session.id,
        end_score=session.end_score,
        judged=judged,
    )


def failed(session: Session, failure: Failure, now: float) -> JobFailed:
    """Returns the event that the job failed before its text was complete."""
    return JobFailed(
        job=session.job.job,
        attempt=session.job.attempt,
        failure=failure,
        stats=session.stats(now),
        session=session.id,
    )
