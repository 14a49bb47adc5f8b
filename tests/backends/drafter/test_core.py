"""The drafting core against a server and a target that may agree, lag, lie or lose messages."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.backends.drafter.core import CREDIT_MAX, RemoteDraft, RemoteTextDraft, RemoteTokenDraft, last_word
from twd.wire.base import InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

ME = InstanceId("drafter.n.1")
WORDS = [f" w{number}" for number in range(40)]


def opened(tokens: list[int], credit: int = 8) -> SessionOpened:
    """A session whose tokens are words."""
    return SessionOpened(
        job=JobId("j"),
        session=SessionId("s"),
        model=ModelId("m"),
        speculator=InstanceId("spec"),
        node=NodeId("n"),
        tokens=tokens,
        vocab=VocabFingerprint(hash="v", tokens=40),
        credit=credit,
        text=text_of(tokens),
    )


def text_of(tokens: list[int]) -> str:
    """Tokens as text."""
    return "".join(WORDS[token] for token in tokens)


def words_of(text: str) -> list[int]:
    """Text as tokens."""
    return [int(word) for word in text.split("w")[1:]]


def truth(tokens: list[int]) -> int:
    """What the target writes."""
    return prefix_hash(tokens[-3:]) % 40


@dataclass
class Bench:
    """A session, its target and its server, moved along by hand."""

    by_tokens: bool
    wrong_every: int = 0
    """The server is wrong at every so many places; 0: never."""
    tokens: list[int] = field(default_factory=lambda: [1, 2, 3])
    proposals: list[DraftProposed] = field(default_factory=list)
    stream: list[int] = field(default_factory=list)
    number: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        self.draft: RemoteDraft[str] | RemoteDraft[tuple[int, ...]]
        self.draft = (
            RemoteTokenDraft(opened(self.tokens), ME) if self.by_tokens else RemoteTextDraft(opened(self.tokens), ME)
        )

    def guess(self, tokens: list[int]) -> int:
        token = truth(tokens)
        return (token + 1) % 40 if self.wrong_every and len(tokens) % self.wrong_every == 0 else token

    def move(self) -> None:
        """What the service does after each event."""
        if self.draft.stream != self.number:
            self.stream, self.number = [], 0
        if self.draft.due:
            ask = self.draft.ask()
            units = words_of(ask.units) if isinstance(ask.units, str) else list(ask.units)
            self.number, self.asked = ask.number, self.asked + 1
            self.stream = []
            while len(self.stream) < ask.max_tokens:
                self.stream.append(self.guess([*units, *self.stream]))
        proposal = self.draft.proposal()
        if proposal is not None:
            self.check(proposal)
            self.proposals.append(proposal)

    def check(self, proposal: DraftProposed) -> None:
        """Whatever is proposed says truly which prefix it continues."""
        assert proposal.drafter == ME
        if proposal.at <= len(self.tokens):
            assert proposal.prefix == prefix_hash(self.tokens[: proposal.at])
        if not self.by_tokens:
            assert proposal.at == len(self.tokens)

    def piece(self) -> None:
        """The server sends one more token, or ends the stream."""
        if not self.number:
            return
        if self.stream:
            token = self.stream.pop(0)
            if isinstance(self.draft, RemoteTokenDraft):
                self.draft.take(self.number, (token,), 1.0)
            else:
                assert isinstance(self.draft, RemoteTextDraft)
                self.draft.take(self.number, WORDS[token], 1.0)
        else:
            self.draft.finish(self.number, by_itself=False)
        self.move()

    def decide(self, count: int) -> None:
        """The target accepts some tokens."""
        at = len(self.tokens)
        news: list[int] = []
        for _ in range(count):
            news.append(truth([*self.tokens, *news]))
        self.tokens += news
        if isinstance(self.draft, RemoteTokenDraft):
            assert self.draft.accept(at, news, tuple(news))
        else:
            assert isinstance(self.draft, RemoteTextDraft)
            assert self.draft.accept(at, news, text_of(news))
        assert self.draft.accept(at, news, self.draft.known), "what is known already is no loss"  # type: ignore[arg-type]
        self.move()

    def right(self) -> int:
        """How many tokens beyond the accepted text were proposed rightly."""
        return max((self._reach(proposal) for proposal in self.proposals), default=0)

    def _reach(self, proposal: DraftProposed) -> int:
        tokens = list(proposal.tokens) or words_of(proposal.text)
        whole = list(self.tokens)
        while len(whole) < proposal.at + len(tokens):
            whole.append(truth(whole))
        held = whole[proposal.at : proposal.at + len(tokens)] == tokens
        return proposal.at + len(tokens) - len(self.tokens) if held else 0


def is_due(bench: Bench) -> bool:
    """Whether the draft wants a request."""
    return bench.draft.due


STEPS = st.lists(st.one_of(st.just("piece"), st.integers(1, 5)), max_size=80)


@given(st.booleans(), st.sampled_from([0, 1, 2, 3, 7]), STEPS)
@examples(150)
def test_whatever_comes_in_whatever_order(by_tokens: bool, wrong_every: int, steps: list[str | int]) -> None:
    bench = Bench(by_tokens, wrong_every)
    bench.move()
    for step in steps:
        if step == "piece":
            bench.piece()
        else:
            bench.decide(int(step))
        known = list(bench.draft.known) if by_tokens else bench.draft.known
        assert known == (bench.tokens if by_tokens else text_of(bench.tokens))
    for _ in range(400):
        bench.piece()
    assert bench.asked <= 2 + len(steps) * 2, "an idle session asks no more"
    if wrong_every == 0:
        assert bench.right() >= 4, "a right server runs ahead as far as it may"


@given(st.booleans(), STEPS)
def test_nothing_runs_farther_than_its_credit(by_tokens: bool, steps: list[str | int]) -> None:
    bench = Bench(by_tokens)
    bench.draft.grant(3)
    bench.move()
    for step in steps:
        if step == "piece":
            bench.piece()
        else:
            bench.decide(int(step))
        assert len(bench.draft.guess) <= (3 + 8 + 3) * (1 if by_tokens else 4)
    bench.draft.grant(0)
    bench.move()
    assert not bench.draft.stream
    assert not is_due(bench)
    bench.draft.grant(1000)
    assert bench.draft.credit == CREDIT_MAX


def test_a_stream_that_is_right_goes_on_without_a_new_request() -> None:
    bench = Bench(by_tokens=True)
    bench.move()
    for _ in range(6):
        bench.piece()
        bench.piece()
        bench.decide(1)
    assert bench.asked == 1
    assert all(len(proposal.tokens) == 1 for proposal in bench.proposals)
    assert len(bench.proposals) == 12


def test_a_wrong_guess_is_dropped_with_its_stream() -> None:
    bench = Bench(by_tokens=True, wrong_every=1)
    bench.move()
    bench.piece()
    before = bench.number
    bench.decide(1)
    assert bench.asked == 2
    assert bench.number != before
    assert bench.draft.guess == ()


def test_a_stream_may_catch_up_with_the_target() -> None:
    bench = Bench(by_tokens=True)
    bench.move()
    bench.decide(4)
    assert bench.asked == 1
    for _ in range(6):
        bench.piece()
    assert len(bench.draft.guess) == 2
    bench.decide(20)
    assert bench.asked == 2, "too far behind: start where the text is"


def test_messages_that_were_lost_are_noticed_and_healed() -> None:
    bench = Bench(by_tokens=False)
    bench.move()
    bench.piece()
    assert isinstance(bench.draft, RemoteTextDraft)
    assert not bench.draft.accept(99, [1], WORDS[1])
    assert not is_due(bench)
    bench.tokens += [7, 8]
    bench.draft.follow(opened(bench.tokens))
    assert is_due(bench)
    bench.move()
    bench.piece()
    bench.piece()
    assert bench.proposals[-1].at == len(bench.tokens)


def test_text_that_is_held_back_silences_proposals() -> None:
    bench = Bench(by_tokens=False)
    bench.move()
    for _ in range(3):
        bench.piece()
    count = len(bench.proposals)
    assert count
    assert isinstance(bench.draft, RemoteTextDraft)
    token = truth(bench.tokens)
    bench.draft.accept(len(bench.tokens), [token], "")
    bench.piece()
    assert len(bench.proposals) == count


def test_an_end_is_a_rest_until_the_target_writes_on() -> None:
    bench = Bench(by_tokens=True)
    bench.move()
    bench.piece()
    bench.draft.finish(bench.number, by_itself=True)
    bench.move()
    assert bench.proposals[-1].more is False
    assert not is_due(bench)
    bench.decide(1)
    assert not is_due(bench), "as far as it was guessed"
    bench.decide(1)
    assert bench.asked == 2


def test_the_last_word_waits_for_its_end() -> None:
    assert last_word("") == 0
    assert last_word("abc") == 0
    assert last_word(" abc de") == 4
    assert last_word("one two  ") == 7
    assert last_word("one two \n x") == 7
