"""A scripted target that also scores given answers: each of its script's words is one token."""

import re

from msgspec.structs import replace

from tests.edge.fake_speculator import FakeSpeculator, Script
from twd.wire.base import SessionId
from twd.wire.job import (
    FinishReason,
    JobFailed,
    JobFinished,
    JobStats,
    JobSubmitted,
    TokensAccepted,
    TokenScore,
)
from twd.wire.leases.speculator import SpeculatorFacts

UNLIKE = 1.0
_FOREIGN = re.compile(r"\S+\s?|\s+")


def split(text: str, words: list[str]) -> list[tuple[str, float]]:
    """A given text as tokens, each with its gap: 0 where it is the script's word. Blanks around words do not count."""
    found: list[tuple[str, float]] = []
    for word in words:
        bare, want = text.lstrip(" "), word.strip(" ")
        other = _FOREIGN.match(bare)
        if other is None:
            break
        right = bare.startswith(want)
        found.append((word, 0.0) if right else (other[0], UNLIKE))
        text = bare[len(want if right else other[0]) :]
    return found + [(foreign, UNLIKE) for foreign in _FOREIGN.findall(text.strip(" "))]


class FakeJudge(FakeSpeculator):
    """Scores words by whether they are the script's, and writes the script."""

    def facts(self) -> SpeculatorFacts:
        return replace(super().facts(), judges=True)

    async def _play(self, job: JobSubmitted, script: Script) -> None:
        if job.judge is None:
            await super()._play(job, script)
            return
        session, at = SessionId(f"s-{job.job}"), len(job.resume)
        self.emit(self._began(job, session, script))
        text, left = job.judge.text, script.words[at : job.max_tokens]
        for held in (script.stop, script.tail):
            text = text.removesuffix(held) if held else text
        tokens = split(text, left)
        if tokens and script.hang_after is not None and at + len(tokens) > script.hang_after:
            await self.release.wait()
        if tokens and script.fail_after is not None and at + len(tokens) > script.fail_after:
            self.emit(JobFailed(job=job.job, attempt=job.attempt, failure=script.failure, session=session))
            return
        if tokens:
            self.emit(self._scored(job, session, at, tokens))
        self.emit(self._judged(job, session, at + len(tokens), script))

    def _scored(
        self, job: JobSubmitted, session: SessionId, at: int, tokens: list[tuple[str, float]]
    ) -> TokensAccepted:
        return TokensAccepted(
            job=job.job,
            attempt=job.attempt,
            session=session,
            at=self.script.prompt_tokens + at,
            index=at,
            tokens=list(range(at, at + len(tokens))),
            text="".join(word for word, _ in tokens),
            lengths=[len(word) for word, _ in tokens],
            scores=[TokenScore(gap=gap, logprob=-gap, entropy=0.1) for _, gap in tokens],
        )

    def _judged(self, job: JobSubmitted, session: SessionId, read: int, script: Script) -> JobFinished:
        assert job.judge is not None
        cut = read == job.max_tokens and read < len(script.words)
        end = TokenScore(gap=0.0 if read == len(script.words) else UNLIKE, logprob=0.0, entropy=0.0)
        return JobFinished(
            job=job.job,
            attempt=job.attempt,
            reason=FinishReason.LENGTH if cut else script.reason,
            stats=JobStats(
                prompt_tokens=script.prompt_tokens,
                cached_tokens=script.cached_tokens,
                completion_tokens=read,
                passes=1,
                decode_ms=5.0,
            ),
            session=session,
            tail=script.tail if job.judge.text else "",
            stop=script.stop if script.stop and job.judge.text.endswith(script.stop) else "",
            end_score=end if job.judge.ends else None,
        )
