"""Counts the votes of drafters. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Policy = Literal["strict", "majority", "any_disagree"]
VOTES_MIN: Final = 2


class Agreed(NamedTuple):
    """The agreed tokens, and the lowest number of votes that one of them has."""

    tokens: list[int]
    votes: int


NOTHING: Final = Agreed([], 0)


def agree(ballots: Mapping[str, Sequence[int]], asked: int, policy: Policy) -> Agreed:
    """The tokens that the drafters agree on. A drafter that proposes nothing, or proposes too late, does not vote.

    strict: all drafters that were asked agree on the whole span that all of them have. majority: for each token, more
    than half of the drafters asked agree on it and on all tokens before it. any_disagree: all agree, up to the first
    difference.
    """
    if asked < VOTES_MIN or len(ballots) < VOTES_MIN:
        return NOTHING
    if policy == "majority":
        return _majority(ballots, asked)
    if len(ballots) < asked:
        return NOTHING
    spans = list(ballots.values())
    shortest = min(len(span) for span in spans)
    common = next((i for i in range(shortest) if len({span[i] for span in spans}) > 1), shortest)
    if policy == "strict" and common < shortest:
        return NOTHING
    return Agreed(list(spans[0][:common]), len(ballots)) if common else NOTHING


def _majority(ballots: Mapping[str, Sequence[int]], asked: int) -> Agreed:
    able = list(ballots.values())
    tokens: list[int] = []
    votes = 0
    while True:
        place = len(tokens)
        wanted = Counter(span[place] for span in able if len(span) > place)
        token, count = max(wanted.items(), key=lambda one: (one[1], -one[0]), default=(0, 0))
        if count < VOTES_MIN or 2 * count <= asked:
            return Agreed(tokens, votes) if tokens else NOTHING
        tokens.append(token)
        votes = count
        able = [span for span in able if len(span) > place and span[place] == token]
