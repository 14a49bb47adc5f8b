"""When a piece of text is sent: at once, or together with the next piece if both come faster than anybody reads."""

from msgspec.structs import replace

from twd.wire.job import JobStarted, TokensAccepted

WHOLE = 5
"""The pieces of an answer that the client reads only when it is complete may wait this many times as long."""


def may_wait(since_ms: float, next_ms: float, stream_ms: float, *, whole: bool) -> bool:
    """Returns whether a piece may wait for the next one. `since_ms`: since the last piece was sent; `next_ms`: until
    the next comes."""
    return since_ms + next_ms <= stream_ms * (WHOLE if whole else 1)


def add(unsaid: list[JobStarted | TokensAccepted], piece: TokensAccepted) -> None:
    """Add a piece to those that wait; it is joined with the last waiting piece of text."""
    if unsaid and isinstance(last := unsaid[-1], TokensAccepted):
        unsaid[-1] = joined(last, piece)
    else:
        unsaid.append(piece)


def joined(first: TokensAccepted, then: TokensAccepted) -> TokensAccepted:
    """Returns two pieces of one text as one."""
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
