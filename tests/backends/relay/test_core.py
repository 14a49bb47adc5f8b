"""A passed-through job against any sequence of pieces: order, stops, exactly one end."""

from hypothesis import given
from hypothesis import strategies as st

from tests.backends.listener import job
from twd.backends.clients.base import TextPiece, TokenUsage
from twd.backends.relay.core import RelayedJob, pauses
from twd.wire.base import Event, ModelId, SessionId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import FinishReason, JobFailed, JobFinished, JobStarted, TokenLogprob, TokensAccepted

TEXT = st.text(alphabet="abAB ", max_size=4)
LOGPROB = TokenLogprob(token=1, text="a", logprob=-0.5)
STOP = st.text(alphabet="abAB ", min_size=1, max_size=3)


def relayed(**fields: object) -> RelayedJob:
    """A job in hand at second 0."""
    return RelayedJob(job(**fields), SessionId("s-1"), ModelId("big"), 0.0)  # type: ignore[arg-type]


def shown(events: list[Event]) -> str:
    """The text that was told."""
    return "".join(event.text for event in events if isinstance(event, TokensAccepted))


@given(
    st.lists(st.tuples(TEXT, st.booleans()), max_size=12),
    st.lists(st.text(alphabet="abAB ", min_size=1, max_size=3), max_size=3),
    st.booleans(),
)
def test_the_text_ends_before_the_first_stop_string(
    pieces: list[tuple[str, bool]], stops: list[str], cut: bool
) -> None:
    one, whole = relayed(stop=stops), "".join(text for text, _ in pieces)
    events: list[Event] = []
    for text, alone in pieces:
        events += one.take(TextPiece(text=text), 1.0)
        events += one.flush(1.0) if alone else []
    events += one.take(TextPiece(end=FinishReason.LENGTH if cut else FinishReason.STOP), 2.0)
    ends = [event for event in events if isinstance(event, JobFinished)]
    assert len(ends) == 1
    assert events[-1] is ends[0]
    places = [(whole.find(stop) + len(stop), -len(stop)) for stop in stops if stop in whole]
    if places:
        end, length = min(places)
        assert shown(events) == whole[: end + length]
        assert ends[0].reason is FinishReason.STOP
        assert ends[0].stop == whole[end + length : end]
    else:
        assert shown(events) == whole
        assert ends[0].reason is (FinishReason.LENGTH if cut else FinishReason.STOP)
    told = [event for event in events if isinstance(event, TokensAccepted)]
    assert [event.index for event in told] == list(range(len(told)))
    assert one.take(TextPiece(text="late"), 3.0) == one.fail(Failure(code=FailureCode.INTERNAL, message="x"), 3.0) == []


def test_counts_and_times() -> None:
    one = relayed()
    (started,) = one.start(1.0)
    assert isinstance(started, JobStarted)
    one.take(TextPiece(text="a"), 1.5)
    one.take(TextPiece(text="b"), 1.75)
    _, end = one.take(
        TextPiece(end=FinishReason.STOP, stop="x", usage=TokenUsage(prompt=5, completion=3, cached=2)), 2.0
    )
    assert isinstance(end, JobFinished)
    assert (end.stats.prompt_tokens, end.stats.cached_tokens, end.stats.completion_tokens) == (5, 2, 3)
    assert (end.stats.queued_ms, end.stats.prefill_ms, end.stats.decode_ms) == (1000, 500, 500)
    assert (end.stop, end.seed) == ("x", 7)


def test_without_counts_pieces_are_counted() -> None:
    one = relayed()
    one.take(TextPiece(text="a", tokens=[1, 2]), 0.0)
    one.take(TextPiece(text="b"), 0.0)
    _, end = one.take(TextPiece(end=FinishReason.STOP), 0.0)
    assert isinstance(end, JobFinished)
    assert end.stats.completion_tokens == 3


def test_pieces_that_come_together_are_told_together() -> None:
    one = relayed()
    one.start(0.0)
    assert [event for text in ("a", "b") for event in one.take(TextPiece(text=text, logprobs=[LOGPROB]), 0.0)] == []
    (told,) = one.flush(0.1)
    assert isinstance(told, TokensAccepted)
    assert (told.text, told.index, told.logprobs) == ("ab", 0, [LOGPROB, LOGPROB])
    assert one.flush(0.1) == []
    one.take(TextPiece(text="c"), 0.2)
    rest, end = one.fail(Failure(code=FailureCode.BACKEND_BROKEN, message="x"), 0.3)
    assert (shown([rest]), isinstance(end, JobFailed), one.waits) == ("c", True, False)


def test_life_is_shown_in_silence() -> None:
    one = relayed()
    one.start(0.0)
    assert one.keep_alive(0.9) == []
    (sign,) = one.keep_alive(1.0)
    assert isinstance(sign, TokensAccepted)
    assert (sign.text, sign.index) == ("", 0)
    assert one.keep_alive(1.9) == []
    one.take(TextPiece(text="a"), 2.0)
    one.flush(2.0)
    (sign,) = one.keep_alive(3.0)
    assert isinstance(sign, TokensAccepted)
    assert sign.index == 1
    (end,) = one.fail(Failure(code=FailureCode.DEADLINE, message="x"), 4.0)
    assert isinstance(end, JobFailed)
    assert one.keep_alive(9.0) == []


def test_pauses_grow_and_have_a_bound() -> None:
    assert list(pauses(3)) == [0.2, 0.4, 0.8]
    assert max(pauses(20)) == 2.0
