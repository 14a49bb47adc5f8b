"""When a piece of text leaves: at once, or with the next one, where both come sooner than anybody reads."""

from msgspec.structs import replace

from twd.wire.job import TokensAccepted

WHOLE = 5
"""An answer that is read when it is over is told in pieces that come so many times as seldom."""


def may_wait(since_ms: float, next_ms: float, stream_ms: float, *, whole: bool) -> bool:
    """Whether a piece may travel with the next: the last one left so long ago, and the next comes then."""
    return since_ms + next_ms <= stream_ms * (WHOLE if whole else 1)


def joined(first: TokensAccepted | None, then: TokensAccepted) -> TokensAccepted:
    """Two pieces of one text as one."""
    if first is None:
        return then
    return replace(
        first,
        tokens=first.tokens + then.tokens,
        text=first.text + then.text,
        checked=first.checked + then.checked,
        taken=first.taken + then.taken,
        drafter=then.drafter or first.drafter,
        logprobs=first.logprobs + then.logprobs,
    )
