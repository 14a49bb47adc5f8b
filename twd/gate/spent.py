"""What the parts of one request have taken: time, passes and tokens. Pure."""

from dataclasses import dataclass

from twd.wire.job import DrafterShare, JobStarted, JobStats, Judged


@dataclass(slots=True)
class Spent:
    """Time (milliseconds), passes and tokens that the parts of a request took."""

    target_ms: float = 0.0
    judge_ms: float = 0.0
    member_ms: float = 0.0
    passes: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def began(self, event: JobStarted) -> None:
        """Note the size of the prompt, as the client is told it."""
        self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens

    def by_member(self, stats: JobStats) -> None:
        """Add a part that a member did."""
        self.member_ms += stats.prefill_ms + stats.decode_ms

    def by_target(self, stats: JobStats, *, judging: bool) -> None:
        """Add a part that the target did. `judging`: it scored or judged an answer."""
        ms = stats.prefill_ms + stats.decode_ms
        self.target_ms += ms
        self.judge_ms += ms if judging else 0.0
        self.passes += stats.passes
        self.prefill_ms += stats.prefill_ms
        self.decode_ms += stats.decode_ms
        if not self.prompt_tokens:
            self.prompt_tokens, self.cached_tokens = stats.prompt_tokens, stats.cached_tokens

    def stats(self, judged: Judged, scored: int, tokens: int, decode_ms: float) -> JobStats:
        """The statistics that the client gets. `scored`: tokens of members that were scored; `tokens`: those that were
        sent; `decode_ms`: from the first token to now."""
        kept = judged.kept
        return JobStats(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=tokens,
            passes=self.passes,
            checked=scored,
            taken=kept,
            drafters=[DrafterShare(drafter=judged.member, checked=scored, taken=kept)] if kept else [],
            prefill_ms=round(self.prefill_ms, 3),
            decode_ms=round(decode_ms, 3),
        )
