"""Experts that drafters tell: read ahead where they were right, and never such as do not exist."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.speculator.core.drafted_experts import Choice, DraftedExperts, ExpertForesight
from twd.wire.base import InstanceId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.prefix import extend, prefix_hash

LAYERS = (8, 8, 4)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


def choice_of(token: int) -> Choice:
    """What both models choose: two experts in each layer."""
    return [expert for count in LAYERS for expert in (token % count, (token + 1) % count)]


class Listening:
    """A target that keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[Choice]] = []
        self.drafted = DraftedExperts(ExpertForesight(LAYERS, choice_of, self._foresee))

    def _foresee(self, choices: Sequence[Choice]) -> None:
        self.asked.append(list(choices))

    def read(self, count: int) -> None:
        """The target has read so much of the text."""
        self.drafted.learn((prefix_hash(TEXT[:end]), TEXT[end - 1]) for end in range(1, count + 1))


def message(experts: list[Choice], drafter: str = "d", at: int = 1) -> DraftProposed:
    """Guesses from a place of the text on, with what was chosen for the token before each."""
    tokens = TEXT[at:]
    return DraftProposed(
        session=SessionId("s"),
        drafter=InstanceId(drafter),
        at=at,
        prefix=prefix_hash(TEXT[:at]),
        tokens=tokens,
        experts=experts,
    )


def hear(target: Listening, experts: list[Choice], drafter: str = "d") -> None:
    event = message(experts, drafter)
    target.drafted.hear(event, event.tokens)


def test_choices_are_compared_first_and_then_read_ahead() -> None:
    target = Listening()
    hear(target, [choice_of(token) for token in TEXT[:-1]])
    texts = [prefix_hash(TEXT[:end]) for end in range(6, 9)]
    assert target.drafted.foresee(texts) == set(), "nobody knows yet whether it is right"
    target.read(5)
    assert target.drafted.compared == target.drafted.right == 5 * 6
    assert target.drafted.foresee([*texts, 12345]) == set(texts)
    assert target.asked == [[choice_of(token) for token in TEXT[5:8]]]


def test_a_drafter_that_chooses_otherwise_is_not_used() -> None:
    target = Listening()
    hear(target, [[e for n in LAYERS for e in ((token + n // 2) % n, (token + n // 2 + 1) % n)] for token in TEXT[:-1]])
    target.read(8)
    assert (target.drafted.compared, target.drafted.right) == (8 * 6, 0)
    assert target.drafted.foresee([prefix_hash(TEXT[:9])]) == set()
    assert not target.asked


def test_experts_that_do_not_exist_are_dropped_and_counted() -> None:
    target = Listening()
    hear(target, [[0, 1, 2, 3, 4, 1], [8, 0, 30_000, 1, 0, 1], [0, 1, 2, 3], [], [*range(6)] * 7])
    assert target.drafted.unknown == 1 + 2 + 4 + 6
    target.read(4)
    assert target.drafted.compared == 0


Numbers = st.lists(st.lists(st.integers(0, 2**15 - 1) | st.integers(0, 7), max_size=12), max_size=12)


@given(st.lists(Numbers, min_size=1, max_size=6))
@examples(60)
def test_whatever_a_drafter_tells_only_existing_experts_are_asked_for(messages: list[list[Choice]]) -> None:
    target = Listening()
    hear(target, [choice_of(token) for token in TEXT[:-1]])
    target.read(6)
    for experts in messages:
        hear(target, experts)
        target.drafted.foresee([prefix_hash(TEXT[:end]) for end in range(1, len(TEXT))])
    for choice in (one for asked in target.asked for one in asked):
        each = len(choice) // len(LAYERS)
        assert each * len(LAYERS) == len(choice) > 0
        assert all(one < LAYERS[place // each] for place, one in enumerate(choice))


def test_tables_are_bounded() -> None:
    target = Listening()
    prefix = prefix_hash(TEXT[:1])
    for number in range(3000):
        event = DraftProposed(
            session=SessionId("s"),
            drafter=InstanceId(f"d{number}"),
            at=1,
            prefix=extend(prefix, (number,)),
            tokens=[1],
            experts=[choice_of(1)],
        )
        target.drafted.hear(event, event.tokens)
        target.drafted.learn([(event.prefix, 1)] if number % 2 else [])
    assert len(target.drafted._told) <= 1024
    assert len(target.drafted._records) <= 256
