"""A drafter that lies in every way that its messages allow."""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from tests.sim import truth
from tests.sim.doubles import VOCAB
from twd.kit.service import Effects, Service, ServiceContext
from twd.wire.base import InstanceId, ModelId, SessionId
from twd.wire.draft import DrafterAttached, DrafterDetached, DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import TokensAccepted
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import EMPTY, extend, prefix_hash

BEYOND = 2**31 - 1
"""The largest token that the wire allows; no model has it."""


class HostileDrafter(Service):
    """Follows sessions only to disturb them."""

    name = "hostile"
    reads = (SessionOpened, TokensAccepted, SessionClosed)
    writes = (DraftProposed, DrafterAttached, DrafterDetached)
    tick_s = 2.0

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.dice = random.Random(ctx.ids.seed())
        self.sessions: dict[SessionId, tuple[int, list[int]]] = {}
        self.others: list[InstanceId] = []

    def tick(self, now: float) -> Effects:
        """Come again, always as somebody else."""
        vocab = self.dice.choice((VOCAB, VocabFingerprint(hash="other", tokens=7)))
        self.emit(
            DrafterAttached(
                drafter=self.instance,
                node=self.ctx.node,
                model=ModelId("liar"),
                vocab=vocab,
                by_text=self.dice.random() < 0.3,
                token_ms=self.dice.choice((0.0, 1e-9, 5.0, 1e12)),
            )
        )
        if self.others and self.dice.random() < 0.3:
            self.emit(DrafterDetached(drafter=self.dice.choice(self.others), reason="so they say"))
        return None

    def on_session_opened(self, event: SessionOpened) -> Effects:
        self.sessions[event.session] = (event.seed, list(event.tokens))
        self.others = [event.speculator, self.instance]
        self._lie(event.session)
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        known = self.sessions.get(event.session)
        if known is not None and event.tokens:
            del known[1][event.at :]
            known[1].extend(event.tokens)
            self._lie(event.session)
        return None

    def on_session_closed(self, event: SessionClosed) -> Effects:
        if self.dice.random() < 0.5:
            self._lie(event.session)
        self.sessions.pop(event.session, None)
        return None

    def _lie(self, session: SessionId) -> None:
        if session in self.sessions:
            lies: tuple[Callable[..., dict[str, Any]], ...] = (
                self._no_such_token,
                self._beyond_the_end,
                self._too_much,
                self._another_text,
                self._far_ahead,
                self._strange_figures,
                self._words,
            )
            seed, tokens = self.sessions[session]
            draft = DraftProposed(session=session, drafter=self.instance, at=len(tokens), prefix=prefix_hash(tokens))
            lie = msgspec.structs.replace(draft, **self.dice.choice(lies)(seed, tokens))
            for _ in range(self.dice.choice((1, 1, 3))):
                self.emit(lie)

    def _no_such_token(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        return {"tokens": [self.dice.choice((BEYOND, truth.VOCABULARY)), truth.choose(seed, tokens)]}

    def _beyond_the_end(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        true = truth.choose(seed, tokens)
        return {"tokens": [true, truth.END_OF_TEXT, truth.END_OF_TEXT, BEYOND], "confidence": [1.0] * 4}

    def _too_much(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        return {"tokens": [self.dice.randrange(truth.VOCABULARY) for _ in range(256)], "confidence": [1.0] * 256}

    def _another_text(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        at = self.dice.randrange(len(tokens) + 1)
        return {"at": at, "prefix": self.dice.choice((EMPTY, self.dice.getrandbits(53))), "tokens": [2, 3, 4]}

    def _far_ahead(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        ahead = [self.dice.randrange(truth.VOCABULARY) for _ in range(5)]
        return {"at": len(tokens) + 5, "prefix": extend(prefix_hash(tokens), ahead), "tokens": [BEYOND, 2]}

    def _strange_figures(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        confidence = [self.dice.choice((0.0, 1.0, 1e-300)) for _ in range(self.dice.randrange(20))]
        return {
            "tokens": [truth.choose(seed, tokens), 5, 6],
            "confidence": confidence,
            "draft_ms": self.dice.choice((0.0, 1e-300, 1e300)),
            "more": self.dice.random() < 0.5,
        }

    def _words(self, seed: int, tokens: list[int]) -> dict[str, Any]:
        return {"text": self.dice.choice(("", "some words", "\0" * 4096)), "tokens": []}
