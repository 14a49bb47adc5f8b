"""On what drafters agree, and in which sessions that counts."""

from hypothesis import given
from hypothesis import strategies as st

from twd.racer.core import RacerCore
from twd.racer.votes import NOTHING, agree
from twd.wire.base import InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed, SessionOpened, Voter
from twd.wire.job import TokensAccepted
from twd.wire.judging import TokensAgreed
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

S = SessionId("s")
PROMPT = [5, 6, 7]
SPANS = st.lists(st.integers(0, 3), min_size=1, max_size=6)


def test_strict_wants_all_on_the_whole_span() -> None:
    assert agree({"a": [1, 2, 3], "b": [1, 2]}, 2, "strict").tokens == [1, 2]
    assert agree({"a": [1, 2, 3], "b": [1, 9]}, 2, "strict") == NOTHING
    assert agree({"a": [1, 2], "b": [1, 2]}, 3, "strict") == NOTHING


def test_majority_counts_who_was_asked_and_not_who_answered() -> None:
    assert agree({"a": [1, 2], "b": [1, 2], "c": [1, 3]}, 3, "majority") == ([1, 2], 2)
    assert agree({"a": [1, 2], "b": [1, 2]}, 4, "majority") == NOTHING
    assert agree({"a": [1]}, 1, "majority") == NOTHING


def test_any_disagree_takes_what_stands_before_the_first_difference() -> None:
    assert agree({"a": [1, 2, 3], "b": [1, 9, 3]}, 2, "any_disagree").tokens == [1]
    assert agree({"a": [2], "b": [1]}, 2, "any_disagree") == NOTHING


@given(st.dictionaries(st.sampled_from("abcd"), SPANS, max_size=4), st.integers(0, 5))
def test_no_policy_agrees_with_fewer_than_it_says(ballots: dict[str, list[int]], asked: int) -> None:
    asked = max(asked, len(ballots))
    for policy in ("strict", "majority", "any_disagree"):
        tokens, votes = agree(ballots, asked, policy)
        if not tokens:
            continue
        behind = sum(span[: len(tokens)] == tokens for span in ballots.values())
        assert behind >= votes >= 2
        assert votes == asked if policy != "majority" else 2 * votes > asked


def opened(
    policy: str = "majority", tokens: list[int] | None = None, models: dict[str, str] | None = None
) -> SessionOpened:
    voters = [Voter(drafter=InstanceId(name), model=model) for name, model in (models or {"a": "x", "b": "y"}).items()]
    return SessionOpened(
        job=JobId("j"),
        session=S,
        model=ModelId("m"),
        speculator=InstanceId("spec"),
        node=NodeId("n"),
        tokens=tokens or PROMPT,
        vocab=VocabFingerprint(hash="v", tokens=50),
        consensus=policy,
        voters=voters,
    )


def draft(name: str, before: list[int], tokens: list[int], session: SessionId = S) -> DraftProposed:
    at, prefix = len(before), prefix_hash(before)
    return DraftProposed(session=session, drafter=InstanceId(name), at=at, prefix=prefix, tokens=tokens)


def grew(before: list[int], tokens: list[int]) -> TokensAccepted:
    at = len(before)
    return TokensAccepted(job=JobId("j"), attempt=1, session=S, at=at, index=at - 3, tokens=tokens)


def racer(**models: str) -> RacerCore:
    core = RacerCore(InstanceId("racer"))
    core.opened(opened(models=models))
    return core


def test_agreement_is_told_once_and_grows() -> None:
    core = racer()
    assert core.proposed(draft("a", PROMPT, [1, 2, 3])) is None
    agreed = core.proposed(draft("b", PROMPT, [1, 2]))
    assert isinstance(agreed, TokensAgreed)
    assert (agreed.at, agreed.tokens, agreed.votes, agreed.asked) == (3, [1, 2], 2, 2)
    assert core.proposed(draft("b", [*PROMPT, 1], [2])) is None
    more = core.proposed(draft("b", [*PROMPT, 1, 2], [3]))
    assert more is not None
    assert more.tokens == [1, 2, 3]
    assert core.agreed == 3


def test_text_that_goes_another_way_leaves_no_votes() -> None:
    core = racer()
    core.proposed(draft("a", PROMPT, [1, 2, 3]))
    assert core.accepted(grew(PROMPT, [9])) is None
    assert core.proposed(draft("b", PROMPT, [1, 2, 3])) is None
    core.proposed(draft("a", [*PROMPT, 9], [4]))
    agreed = core.proposed(draft("b", [*PROMPT, 9], [4]))
    assert agreed is not None
    assert (agreed.at, agreed.prefix) == (4, prefix_hash([*PROMPT, 9]))


def test_a_refuted_agreement_does_not_hold_back_the_next() -> None:
    core = racer()
    for name in "ab":
        core.proposed(draft(name, PROMPT, [1, 2, 3]))
    assert core.accepted(grew(PROMPT, [1, 9])) is None
    core.proposed(draft("a", [*PROMPT, 1, 9], [4]))
    agreed = core.proposed(draft("b", [*PROMPT, 1, 9], [4]))
    assert agreed is not None
    assert agreed.tokens == [4]


def test_copies_of_a_file_have_one_vote() -> None:
    core = racer(a="x", b="x")
    core.proposed(draft("a", PROMPT, [1, 2]))
    assert core.proposed(draft("b", PROMPT, [1, 2])) is None


def test_strangers_and_sessions_that_did_not_ask_have_none() -> None:
    core = racer()
    core.proposed(draft("a", PROMPT, [1, 2]))
    assert core.proposed(draft("stranger", PROMPT, [1, 2])) is None
    assert core.proposed(draft("b", PROMPT, [1, 2], SessionId("other"))) is None
    core.opened(opened(policy=""))
    core.closed(S)
    assert core.proposed(draft("b", PROMPT, [1, 2])) is None


def test_a_lost_piece_of_text_ends_the_votes_until_it_is_told_anew() -> None:
    core = racer()
    core.accepted(grew([*PROMPT, 1, 2], [3]))
    assert core.proposed(draft("a", PROMPT, [1])) is None
    core.opened(opened(tokens=[*PROMPT, 1, 2, 3]))
    core.proposed(draft("a", [*PROMPT, 1, 2, 3], [4]))
    assert core.proposed(draft("b", [*PROMPT, 1, 2, 3], [4])) is not None
