"""One relayed job: takes pieces of text and returns events, with exactly one end. No clock, no network, no bus."""

from collections.abc import Sequence

from twd.backends.clients.base import TextPiece, TokenUsage
from twd.chat.text import Detokenizer
from twd.chat.thoughts import usual_thoughts
from twd.wire.base import Event, ModelId, SessionId
from twd.wire.failures import Failure
from twd.wire.job import (
    FinishReason,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStats,
    JobSubmitted,
    TokenLogprob,
    TokensAccepted,
)

KEEPALIVE_S = 1.0


class RelayedJob:
    """The text of one job as it comes. Each event with text counts as one position, because its tokens are not known.

    A server often sends several pieces at once: `take` collects them, and `flush` returns them in one event.
    """

    def __init__(self, job: JobSubmitted, session: SessionId, model: ModelId, now: float) -> None:
        self.job = job
        self.session = session
        self._model = model
        self._chunk = b""
        self._text = Detokenizer(lambda _: self._chunk, job.stop)
        self._usage = TokenUsage()
        self._gathered: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._place = 0
        self._tokens = 0
        self._queued_at = now
        self._sent_at = self._first_at = self._spoke_at = now
        self.begun = False
        """Whether any text was published: after that the request cannot be tried again."""
        self.ended = False

    def start(self, now: float) -> list[Event]:
        """The request is being sent to the server."""
        self._sent_at = self._first_at = self._spoke_at = now
        return [
            JobStarted(
                job=self.job.job,
                attempt=self.job.attempt,
                session=self.session,
                model=self._model,
                prompt_tokens=0,
                seed=self.job.sampling.seed or 0,
                thoughts=usual_thoughts(self.job.prompt),
            )
        ]

    def take(self, piece: TextPiece, now: float) -> list[Event]:
        """Add the next piece of text. A piece that ends the text or completes a stop string is returned at once, with
        all text before it.
        """
        if self.ended:
            return []
        self._first_at = self._first_at if self._tokens else now
        self._tokens += len(piece.tokens) or int(piece.text != "")
        self._chunk = piece.text.encode("utf-8", "replace")
        shown = self._text.feed((0,)) if piece.text else ""
        self._usage = piece.usage or self._usage
        if piece.end is not None and self._text.hit is None:
            shown += self._text.finish()
        self._gathered += [shown] if shown else []
        self._logprobs += piece.logprobs
        if self._text.hit is not None:
            return self.flush(now) + self._finish(FinishReason.STOP, self._text.hit.stop, now)
        return [] if piece.end is None else self.flush(now) + self._finish(piece.end, piece.stop, now)

    @property
    def waits(self) -> bool:
        """Whether there is text or a logprob that was taken but not returned yet."""
        return not self.ended and bool(self._gathered or self._logprobs)

    def flush(self, now: float) -> list[Event]:
        """Everything that was taken since the last call, in one event."""
        return [self._accepted(now)] if self.waits else []

    def keep_alive(self, now: float) -> list[Event]:
        """An event if none was returned for KEEPALIVE_S seconds."""
        if self.ended or now - self._spoke_at < KEEPALIVE_S:
            return []
        return [self._accepted(now)]

    def fail(self, failure: Failure, now: float) -> list[Event]:
        """The job ends with a failure; the text is not complete."""
        if self.ended:
            return []
        told = self.flush(now)
        self.ended = True
        return [
            *told,
            JobFailed(
                job=self.job.job,
                attempt=self.job.attempt,
                failure=failure,
                stats=self._stats(now),
                session=self.session,
            ),
        ]

    def _accepted(self, now: float) -> TokensAccepted:
        place, text, logprobs = self._place, "".join(self._gathered), self._logprobs
        self._gathered, self._logprobs, self._spoke_at = [], [], now
        if text:
            self._place += 1
            self.begun = True
        return TokensAccepted(
            job=self.job.job,
            attempt=self.job.attempt,
            session=self.session,
            at=place,
            index=place,
            tokens=[],
            text=text,
            logprobs=logprobs,
        )

    def _finish(self, reason: FinishReason, stop: str, now: float) -> list[Event]:
        self.ended = True
        return [
            JobFinished(
                job=self.job.job,
                attempt=self.job.attempt,
                reason=reason,
                stats=self._stats(now),
                seed=self.job.sampling.seed or 0,
                stop=stop,
                session=self.session,
            )
        ]

    def _stats(self, now: float) -> JobStats:
        return JobStats(
            prompt_tokens=self._usage.prompt,
            cached_tokens=min(self._usage.cached, self._usage.prompt),
            completion_tokens=self._usage.completion or self._tokens,
            passes=self._tokens,
            queued_ms=round((self._sent_at - self._queued_at) * 1000, 3),
            prefill_ms=round((self._first_at - self._sent_at) * 1000, 3),
            decode_ms=round((now - self._first_at) * 1000, 3),
        )


def pauses(tries: int) -> Sequence[float]:
    """The seconds to wait before each retry of a request that has not returned anything yet."""
    return [min(2.0, 0.2 * 2.0**index) for index in range(tries)]
