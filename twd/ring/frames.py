"""The frames on a ring's links: a fixed header, a small msgpack message, and for a pass the raw states.

Lengths are limited before anything is read, and no part of a frame is used before it was checked here.
"""

import enum
import struct
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import Grammar, Sampling, Seed, TokenLogprob
from twd.wire.reading import NONSENSE
from twd.wire.ring import FrameFault, StateFormat

VERSION: Final = 1
MAGIC: Final = b"tw"
HEADER: Final = struct.Struct("<2sBBII")
SLOTS_MAX: Final = 4096
ROWS_MAX: Final = 8192

States = npt.NDArray[np.float32]
Slot = Annotated[int, Meta(ge=0, lt=SLOTS_MAX)]
Epoch = Annotated[int, Meta(ge=0, lt=2**53)]
Position = Annotated[int, Meta(ge=0, lt=2**31)]
Token = Annotated[int, Meta(ge=0, lt=2**31)]
Rows = Annotated[int, Meta(ge=0, le=ROWS_MAX)]
Secret = Annotated[bytes, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=256)]


class FrameError(TwdError):
    """Something came over a link that is not allowed there."""

    def __init__(self, fault: FrameFault, message: str) -> None:
        stranger = fault is FrameFault.WRONG_KEY
        super().__init__(FailureCode.UNAUTHENTICATED if stranger else FailureCode.BACKEND_BROKEN, message)
        self.fault = fault


class LinkClosedError(TwdError):
    """The other end is lost, or this end was closed."""

    def __init__(self, message: str = "the link is closed") -> None:
        super().__init__(FailureCode.WORKER_LOST, message)


class LinkRole(enum.StrEnum):
    """Who opens a link to a stage: the driver (home), or the stage before it (chain)."""

    HOME = "home"
    CHAIN = "chain"


class RingMessage(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages: written as arrays, so that a token costs few bytes."""


class Challenge(RingMessage, frozen=True, array_like=True):
    """A stage sends this first: whoever connected must prove that it knows the ring's secret."""

    nonce: Secret


class Hello(RingMessage, frozen=True, array_like=True):
    """The answer to a challenge: the sender's name and role, and its proof."""

    role: LinkRole
    ring: Name
    sender: Name
    nonce: Secret
    proof: Secret


class Welcome(RingMessage, frozen=True, array_like=True):
    """The link is accepted, and the chain behind the stage works. At most `credits` passes may be in flight."""

    proof: Secret
    credits: Annotated[int, Meta(ge=1, le=4096)]
    n_embd: Annotated[int, Meta(ge=1, le=1 << 20)]
    slots: Annotated[int, Meta(ge=1, le=SLOTS_MAX)]
    ctx_size: Position
    window_max: Rows
    undoable: Position = 2**31 - 1
    """How many of its last tokens a slot can always give back. Models with a recurrent state cannot give back all."""


class SessionSpec(RingMessage, frozen=True, array_like=True):
    """What the output stage needs to sample a session's tokens. `logprobs` None: none are reported. `check`: it follows
    the fixed text of the cut check instead, and reports on the logits."""

    sampling: Sampling
    seed: Seed
    prompt_len: Position
    grammar: Grammar | None = None
    ignore_eos: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    check: bool = False


class Open(RingMessage, frozen=True, array_like=True):
    """A session takes a slot. The slot keeps its cache: the session's first window says from which position to go
    on."""

    slot: Slot
    spec: SessionSpec


class Copy(RingMessage, frozen=True, array_like=True):
    """Make one slot's cache equal to another's."""

    source: Slot
    target: Slot


class Close(RingMessage, frozen=True, array_like=True):
    """A session has ended; its cache stays until the slot is used again."""

    slot: Slot


class WindowItem(RingMessage, frozen=True, array_like=True):
    """A window as it is sent: one slot's tokens from position `at` on; the slot is first rolled back to there.

    The first `committed` tokens are accepted; those behind are drafts. Without `picks` nothing is verified. Padding is
    not sent: each stage adds what its own kernels need. Epochs of a slot only rise while a ring lasts.
    """

    slot: Slot
    epoch: Epoch
    at: Position
    tokens: Annotated[list[Token], Meta(min_length=1, max_length=ROWS_MAX)]
    committed: Rows = 1
    picks: bool = True
    scores: bool = False
    """All tokens are kept, and the outcome tells how well each fits."""
    ends: bool = False
    """With `scores`: the end of text behind the tokens is scored, too."""
    guesses: Rows = 0
    """How many tokens the model's own head should guess behind the tokens that are picked."""
    goes_on: bool = False
    """With `scores`: the token behind the last one is sampled, too."""
    drafts: Rows = 0
    """With `goes_on`: this many of its last tokens are drafts."""
    least: Annotated[float, Meta(ge=0.0)] = 0.0
    """With `guesses`: the head stops where the chance that all of them are right falls below this."""


class TokenFit(RingMessage, frozen=True, array_like=True):
    """How well one given token fits the logits."""

    gap: float
    logprob: float
    entropy: float


class ItemOutcome(RingMessage, frozen=True, array_like=True):
    """The result of one item: the sampled tokens, and how many of the item's own tokens are kept; or why it failed."""

    slot: Slot
    epoch: Epoch
    at: Position
    tokens: list[Token] = []
    standing: Rows = 0
    logprobs: list[TokenLogprob] = []
    failure: Failure | None = None
    scores: list[TokenFit] = []
    guesses: list[Token] = []
    """What the model's own head guesses behind `tokens`."""
    sure: list[float] = []
    """How sure it is of each guess."""


class StageTiming(RingMessage, frozen=True, array_like=True):
    """Microseconds that a pass waited at a stage, that its computation took there, and that the model's own head took
    behind it."""

    queue_us: Annotated[int, Meta(ge=0)]
    compute_us: Annotated[int, Meta(ge=0)]
    head_us: Annotated[int, Meta(ge=0)] = 0


class PassFrame(RingMessage, frozen=True, array_like=True):
    """Windows that are computed together, at most one for each slot. From the second stage on their states follow, row
    by row.

    A stage removes items that it refuses or whose epoch is over; `refused` says why items were refused.
    """

    id: Annotated[int, Meta(ge=0, lt=2**53)]
    items: Annotated[list[WindowItem], Meta(max_length=SLOTS_MAX)]
    refused: Annotated[list[ItemOutcome], Meta(max_length=SLOTS_MAX)] = []
    trail: Annotated[list[StageTiming], Meta(max_length=1024)] = []

    @property
    def rows(self) -> int:
        """Number of rows, and so of states where they follow."""
        return sum(len(item.tokens) for item in self.items)


class PassResults(RingMessage, frozen=True, array_like=True):
    """The one answer to a pass; it gives back a credit. Items without an outcome were of an epoch that is over."""

    id: Annotated[int, Meta(ge=0, lt=2**53)]
    outcomes: Annotated[list[ItemOutcome], Meta(max_length=SLOTS_MAX)] = []
    trail: Annotated[list[StageTiming], Meta(max_length=1024)] = []


class VoidEpochs(RingMessage, frozen=True, array_like=True):
    """All windows of a slot whose epoch is below `epoch` are invalid. This overtakes queued frames."""

    slot: Slot
    epoch: Epoch


class LinkProbe(RingMessage, frozen=True, array_like=True):
    """Asks the other end for a pong; with a payload it also measures the bandwidth."""

    id: Annotated[int, Meta(ge=0, lt=2**53)]


class LinkPong(RingMessage, frozen=True, array_like=True):
    """The answer to a probe."""

    id: Annotated[int, Meta(ge=0, lt=2**53)]


class LinkBroken(RingMessage, frozen=True, array_like=True):
    """The last message on a link: why it is being closed."""

    failure: Failure


class _Kind(NamedTuple):
    number: int
    message: type[RingMessage]
    header_max: int
    payload_max: int | None = 0
    """Bytes at most; None: as many as the largest pass of the link."""


BULK_PROBE: Final = 64 * 1024
_KINDS: Final = (
    _Kind(1, Challenge, 256),
    _Kind(2, Hello, 2048),
    _Kind(3, Welcome, 256),
    _Kind(4, Open, 4 << 20),
    _Kind(5, Copy, 32),
    _Kind(6, Close, 32),
    _Kind(7, PassFrame, 1 << 20, None),
    _Kind(8, VoidEpochs, 32),
    _Kind(9, PassResults, 4 << 20),
    _Kind(10, LinkProbe, 32, BULK_PROBE),
    _Kind(11, LinkPong, 32),
    _Kind(12, LinkBroken, 16 << 10),
)
_BY_NUMBER: Final = {kind.number: kind for kind in _KINDS}
_BY_MESSAGE: Final = {kind.message: kind for kind in _KINDS}
_DECODERS: Final = {kind.number: msgspec.msgpack.Decoder(kind.message) for kind in _KINDS}
_encoder: Final = msgspec.msgpack.Encoder()


class Frame(NamedTuple):
    """A message and the payload bytes after it."""

    message: RingMessage
    payload: bytes = b""


def encode(message: RingMessage, payload: bytes | memoryview = b"") -> bytes:
    """Return a frame as bytes; raises FrameError where its header is too long."""
    kind = _BY_MESSAGE[type(message)]
    header = _encoder.encode(message)
    if len(header) > kind.header_max:
        raise FrameError(FrameFault.TOO_LONG, f"a {kind.message.__name__} of {len(header)} bytes is too long to send")
    return b"".join((HEADER.pack(MAGIC, VERSION, kind.number, len(header), len(payload)), header, payload))


class RingFrameReader:
    """Reads frames from a stream. `receive` returns some bytes, at most as many as asked, and none at the end.

    `payload_max` limits the bytes of a pass's states; 0 where none may come.
    """

    def __init__(self, receive: Callable[[int], bytes], payload_max: int = 0) -> None:
        self._receive = receive
        self.payload_max = payload_max
        self._buffer = bytearray()

    def read(self) -> Frame:
        """Return the next frame; raises LinkClosedError at the stream's end, FrameError for anything that is no valid
        frame."""
        self._fill(HEADER.size, between=True)
        magic, version, number, header_len, payload_len = HEADER.unpack_from(self._buffer)
        kind = self._checked(magic, version, number, header_len, payload_len)
        total = HEADER.size + header_len + payload_len
        self._fill(total)
        split = HEADER.size + header_len
        with memoryview(self._buffer) as view:
            header, payload = bytes(view[HEADER.size : split]), bytes(view[split:total])
        del self._buffer[:total]
        return Frame(_decoded(kind, header), payload)

    def _checked(self, magic: bytes, version: int, number: int, header_len: int, payload_len: int) -> _Kind:
        if magic != MAGIC:
            raise FrameError(FrameFault.GARBAGE, f"a frame begins with {magic!r}")
        if version != VERSION:
            raise FrameError(FrameFault.VERSION, f"a frame of version {version}; this process speaks {VERSION}")
        kind = _BY_NUMBER.get(number)
        if kind is None:
            raise FrameError(FrameFault.MALFORMED, f"a frame of unknown kind {number}")
        payload_max = self.payload_max if kind.payload_max is None else kind.payload_max
        if header_len > kind.header_max or payload_len > payload_max:
            what = f"{kind.message.__name__} of {header_len} + {payload_len} bytes"
            raise FrameError(FrameFault.TOO_LONG, f"a {what}; {kind.header_max} + {payload_max} are allowed")
        return kind

    def _fill(self, size: int, *, between: bool = False) -> None:
        while len(self._buffer) < size:
            more = self._receive(max(1 << 16, size - len(self._buffer)))
            if not more and between and not self._buffer:
                raise LinkClosedError("the other end closed the link")
            if not more:
                raise FrameError(FrameFault.CUT, f"the connection ended {size - len(self._buffer)} bytes too early")
            self._buffer += more


def _decoded(kind: _Kind, header: bytes) -> RingMessage:
    try:
        return _DECODERS[kind.number].decode(header)
    except (*NONSENSE, ValueError) as error:
        raise FrameError(FrameFault.MALFORMED, f"a {kind.message.__name__} that cannot be read: {error}") from None


def pack_states(states: States, states_as: StateFormat = StateFormat.F32) -> bytes:
    """Return states as the bytes that are sent."""
    return states.astype("<f2" if states_as is StateFormat.F16 else "<f4", copy=False).tobytes()


def unpack_states(payload: bytes, rows: int, n_embd: int, states_as: StateFormat = StateFormat.F32) -> States:
    """Return `rows` states of `n_embd` numbers; raises FrameError for a payload of another size."""
    half = states_as is StateFormat.F16
    if len(payload) != rows * n_embd * (2 if half else 4):
        raise FrameError(FrameFault.MALFORMED, f"{len(payload)} bytes of states for {rows} rows of {n_embd}")
    states = np.frombuffer(payload, "<f2" if half else "<f4").reshape(rows, n_embd)
    return states.astype(np.float32) if half else states


def are_numbers(states: States) -> bool:
    """Whether all are finite: the engine would accept other values without an error."""
    return bool(np.isfinite(states).all())


def payload_max(rows: int, n_embd: int, states_as: StateFormat = StateFormat.F32) -> int:
    """Return the bytes of the states of a pass with `rows` rows."""
    return rows * n_embd * (2 if states_as is StateFormat.F16 else 4)
