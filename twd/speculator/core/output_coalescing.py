"""When a piece of text leaves: at once, or with the next one, where both come sooner than anybody reads."""

from msgspec.structs import replace

from twd.wire.job import JobStarted, TokensAccepted

WHOLE = 5
"""An answer that is read when it is over is told in pieces that come so many times as seldom."""


def may_wait(since_ms: float, next_ms: float, stream_ms: float, *, whole: bool) -> bool:
    """Whether a piece may travel with the next: the last one left so long ago, and the next comes then."""
    return since_ms + next_ms <= stream_ms * (WHOLE if whole else 1)


def add(unsaid: list[JobStarted | TokensAccepted], piece: TokensAccepted) -> None:
    """One more piece to tell; with the one that waits, it is one."""
    if unsaid and isinstance(last := unsaid[-1], TokensAccepted):
        unsaid[-1] = joined(last, piece)
    else:
        unsaid.append(piece)


def joined(first: TokensAccepted, then: TokensAccepted) -> TokensAccepted:
    """Two pieces of one text as one."""
    return replace(
        first,
        tokens=first.tokens + then.tokens,
        text=first.text + then.text,
        checked=first.checked + then.checked,
        taken=first.taken + then.taken,
        drafter=then.drafter or first.drafter,
        logprobs=first.logprobs + then.logprobs,
        lengths=first.lengths + then.lengths,
        scores=first.scores + then.scores,
    )
