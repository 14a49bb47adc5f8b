"""The core of a drafter for tests, and what drives it."""

from tests.speculator.fakes import TruePicker, text_of
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules, DraftState, Guess
from twd.wire.base import InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import SessionOpened
from twd.wire.model import VocabFingerprint

ME = InstanceId("d")


def opened(tokens: list[int], credit: int = 4, name: str = "s") -> SessionOpened:
    return SessionOpened(
        job=JobId(f"j-{name}"),
        session=SessionId(name),
        model=ModelId("m"),
        speculator=InstanceId("spec"),
        node=NodeId("n"),
        tokens=tokens,
        vocab=VocabFingerprint(hash="v", tokens=50),
        credit=credit,
    )


def core_with(tokens: list[int], credit: int = 4, beside: bool = False) -> DrafterCore:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    core.open(opened(tokens, credit), DraftRules(TruePicker()), beside)
    give_slots(core)
    return core


def give_slots(core: DrafterCore) -> None:
    for i, draft in enumerate(core.waiting()):
        core.opened(draft, i, 0)


def step(core: DrafterCore, guess: list[int] | None = None, confidence: float = 0.9) -> None:
    for draft, window in core.plan():
        said = []
        if window.picks:
            said = [Guess((guess or text_of(list(draft.span(0, draft.length)), 1))[0], confidence)]
        core.computed(draft, window, said, 5.0)


def tokens(core: DrafterCore) -> list[int]:
    return [guess.token for guess in only(core).guesses]


def only(core: DrafterCore) -> DraftState:
    (draft,) = core.drafts.values()
    return draft
