"""Frames that nobody in his senses sends: random values, broken bytes, connections cut anywhere. All from one seed."""

import random

from twd.ring.frames import (
    HEADER,
    MAGIC,
    VERSION,
    Challenge,
    Close,
    Copy,
    Hello,
    ItemOutcome,
    LinkPong,
    LinkProbe,
    LinkRole,
    Open,
    PassFrame,
    PassResults,
    RingMessage,
    SessionSpec,
    VoidEpochs,
    WindowItem,
    encode,
)
from twd.wire.job import Grammar, GrammarKind, Sampling


class FrameMaker:
    """Draws frames from a seed. Most are well made and make no sense; some are not even frames."""

    def __init__(self, seed: int, slots: int, vocabulary: int, ctx_size: int) -> None:
        self._dice = random.Random(seed)
        self._slots = slots
        self._vocabulary = vocabulary
        self._ctx_size = ctx_size

    def chance(self, share: float) -> bool:
        """Whether something of this probability comes about."""
        return self._dice.random() < share

    def frame(self) -> bytes:
        """What is sent next on a link."""
        frame = encode(self._message(), self._payload())
        match self._dice.randrange(600):
            case 0:
                return frame[: self._dice.randrange(1, len(frame))] + self._dice.randbytes(20)
            case 1:
                at = self._dice.randrange(len(frame))
                return frame[:at] + self._dice.randbytes(1) + frame[at + 1 :]
            case 2:
                kind, lengths = self._dice.randrange(256), (self._dice.getrandbits(32), self._dice.getrandbits(32))
                return HEADER.pack(MAGIC, VERSION, kind, *lengths)
            case 3:
                return self._dice.randbytes(self._dice.randrange(1, 200))
            case _:
                return frame

    def void(self) -> bytes:
        """What every link takes from home."""
        return encode(VoidEpochs(self._slot(), self._epoch()))

    def noise(self) -> bytes:
        """What a stranger sends who knows nothing."""
        return self._dice.randbytes(self._dice.randrange(300)) if self.chance(0.7) else self.frame()

    def _payload(self) -> bytes:
        return self._dice.randbytes(self._dice.choice((4, 64, 4096))) if self.chance(0.001) else b""

    def _message(self) -> RingMessage:
        dice = self._dice
        match dice.randrange(20):
            case 0:
                return Open(self._slot(), self._spec())
            case 1:
                return Close(self._slot())
            case 2:
                return Copy(self._slot(), self._slot())
            case 3 | 4:
                return VoidEpochs(self._slot(), self._epoch())
            case 5:
                return LinkProbe(dice.getrandbits(40))
            case 6:
                return LinkPong(dice.getrandbits(40))
            case 7 if self.chance(0.02):
                return dice.choice(
                    [
                        PassResults(1, [ItemOutcome(0, 1, 0, [1])]),
                        Hello(LinkRole.HOME, "r", "s", b"n", b"p"),
                        Challenge(b"n"),
                    ]
                )
            case _:
                return PassFrame(dice.getrandbits(50), [self._item() for _ in range(dice.choice((0, 1, 1, 1, 2, 3)))])

    def _slot(self) -> int:
        return self._dice.randrange(self._slots) if self.chance(0.95) else self._dice.randrange(4096)

    def _epoch(self) -> int:
        return self._dice.choice((0, 1, self._dice.randrange(1 << 12), self._dice.randrange(1 << 20)))

    def _item(self) -> WindowItem:
        dice = self._dice
        count = dice.choice((1, 1, 2, 5, 17, 200))
        most = self._vocabulary if self.chance(0.9) else 1 << 31
        tokens = [dice.randrange(most) for _ in range(count)]
        at = dice.choice((0, 0, 1, dice.randrange(self._ctx_size), dice.randrange(1 << 31)))
        return WindowItem(self._slot(), self._epoch(), at, tokens, dice.choice((0, 1, count, 500)), self.chance(0.7))

    def _spec(self) -> SessionSpec:
        dice = self._dice
        grammar = Grammar(kind=GrammarKind.GBNF, text=dice.choice(("", "root ::= ", "x")))
        return SessionSpec(
            Sampling(temperature=dice.choice((0.0, 0.7)), logit_bias={dice.getrandbits(34): 1.0}),
            dice.getrandbits(50),
            dice.randrange(1 << 20),
            grammar if self.chance(0.2) else None,
            self.chance(0.5),
            dice.choice((None, 0, 20)),
        )
