"""A remote model prepared as a target: probed, measured, and able to turn jobs into tokens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twd.backends.clients.base import Backend, Capabilities, CompletionWish
from twd.backends.clients.detection import open_backend
from twd.backends.clients.facts import verified_facts
from twd.backends.drafter.continuous_stream import ContinuousStream
from twd.backends.verifier.loop_thread import LoopThread
from twd.backends.verifier.prompt_texts import PromptTexts
from twd.backends.verifier.target import RemoteSampler, RemoteTarget, sampler_for
from twd.backends.verifier.token_texts import END, PieceReader, TokenTexts
from twd.kit.progress import Progress, unheard
from twd.settings.model import ServerConfig
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted, Prompt
from twd.wire.model import CostPoint, Exactness, ModelFacts

WIDTHS: Final = (2, 4, 8, 16, 32)
CONTEXT_DEFAULT: Final = 8192
_SAMPLE: Final = (
    "Tomatoes need sun, water and patience. First, choose a place that gets at least six hours of light a day. Then dig"
    " a hole as deep as your hand is long, put the plant in and water it well."
)
_STREAM_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class PreparedRemoteJob:
    """A job prepared for a remote target."""

    tokens: list[int]
    sampler: RemoteSampler
    piece: PieceReader
    end_tokens: frozenset[int]
    seed: int
    judged: tuple[int, ...] | None = None
    """The tokens of an answer to be judged."""


class VerifyingModel:
    """A server that can score, as a target. Calls block; the requests run on a separate thread."""

    def __init__(self, loop: LoopThread, backend: Backend, can: Capabilities, name: ModelId, slots: int) -> None:
        self._loop = loop
        self.backend = backend
        self.can = can
        self.name = name
        self.texts = TokenTexts(backend)
        self._prompts = PromptTexts(backend, self.texts, loop)
        self.ctx_size = can.context or CONTEXT_DEFAULT
        self.exactness = Exactness(exact=False, settings="another server's arithmetic")
        self.tool_format = ""
        began = time.monotonic()
        self.streams, self.points = loop.run(measure(backend, can))
        """`points` are the measured times of passes."""
        self.load_ms = int((time.monotonic() - began) * 1000)
        self.target = RemoteTarget(
            backend,
            self.texts,
            loop,
            ctx_size=self.ctx_size,
            slots=slots,
            window_max=WIDTHS[-1] + 1,
            streams=self.streams,
        )

    @property
    def facts(self) -> ModelFacts:
        """The facts that other services need."""
        return verified_facts(self.name, self.backend, self.can, self.ctx_size, self.target.n_slots)

    def prepare(self, job: JobSubmitted, seed: int) -> PreparedRemoteJob:
        """The tokens of a job by the server's own tokenizer and template; raises if the job cannot be served."""
        _check(job)
        tokens = self._loop.run(self.backend.render(job.prompt))
        if not tokens:
            raise TwdError(FailureCode.BAD_REQUEST, "the prompt is empty; send at least one character", "prompt")
        self._prompts.prepare(tokens)
        pieces = PieceReader(self.texts)
        self._loop.run(pieces.read(job.resume))
        judged = None if job.judge is None else tuple(self._loop.run(self.backend.tokenize(job.judge.text)))
        return PreparedRemoteJob(
            tokens=tokens,
            sampler=sampler_for(job, seed, pieces),
            piece=pieces,
            end_tokens=frozenset() if job.ignore_eos else frozenset({END}),
            seed=seed,
            judged=judged,
        )

    def tokenize(self, text: str) -> list[int]:
        """A drafter's text as known tokens; no request is made for a guess."""
        return self.texts.draft(text)

    def render(self, tokens: Sequence[int]) -> str:
        """The text of tokens, for drafters that work on text. Empty if it is not known: the caller drives all sessions,
        so it must not wait for a request.
        """
        return self._prompts.of(tokens)

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self.backend.close())
        self._loop.stop()


def open_verifying(
    server: ServerConfig, name: ModelId, *, allow_private: bool = True, slots: int = 16, progress: Progress = unheard
) -> VerifyingModel:
    """Connect, probe and measure; raises UNSUPPORTED if the server cannot verify drafts. Blocks."""
    loop = LoopThread("remote-target")
    backend: Backend | None = None
    try:
        progress(0.1, "asking the server what it can")
        backend = loop.run(open_backend(server, allow_private=allow_private))
        can = loop.run(backend.probe())
        if not can.score:
            raise TwdError(
                FailureCode.UNSUPPORTED, f"{backend.name} cannot score given tokens; let it be passed through"
            )
        progress(0.5, "measuring what checks cost")
        return VerifyingModel(loop, backend, can, name, slots)
    except BaseException:
        if backend is not None:
            loop.run(backend.close())
        loop.stop()
        raise


async def measure(backend: Backend, can: Capabilities) -> tuple[bool, list[CostPoint]]:
    """Measure whether its streams contain token ids, and milliseconds of a stream's token and of passes of several
    widths.
    """
    tokens = await backend.render(Prompt(text=_SAMPLE))
    room = can.context or CONTEXT_DEFAULT
    streams, one_ms = await _streamed(backend, tokens, room)
    points = []
    for width in WIDTHS:
        if width >= len(tokens):
            break
        points.append(CostPoint(width=width, ms=await _timed(backend, tokens, width)))
    if not streams:
        one_ms = await _timed(backend, tokens, 1)
    return streams, [CostPoint(width=1, ms=one_ms), *points]


async def _streamed(backend: Backend, tokens: list[int], room: int) -> tuple[bool, float]:
    """Milliseconds of a token in a stream; False if the stream has no token ids."""
    ahead, text, began = (
        ContinuousStream(backend, CompletionWish(Prompt(tokens=[])), room, _STREAM_TOKENS),
        list(tokens),
        time.monotonic(),
    )
    try:
        for _ in range(_STREAM_TOKENS):
            token = await ahead.next(text)
            if token == END:
                break
            text.append(token)
    except TwdError as error:
        if error.code is not FailureCode.BACKEND_BROKEN:
            raise
        return False, 0.0
    finally:
        ahead.stop()
    return True, (time.monotonic() - began) * 1000 / max(1, len(text) - len(tokens))


async def _timed(backend: Backend, tokens: list[int], width: int) -> float:
    """The shorter time of two passes of this width."""
    times = []
    for _ in range(2):
        began = time.monotonic()
        await backend.score(tokens, len(tokens) - width)
        times.append((time.monotonic() - began) * 1000)
    return min(times)


def _check(job: JobSubmitted) -> None:
    """Refuse what no remote target gives."""
    if job.logprobs is not None:
        raise TwdError(FailureCode.UNSUPPORTED, "log probabilities of a remote target are not told", "logprobs")
    if job.prompt.truncate:
        raise TwdError(FailureCode.UNSUPPORTED, "turns are not left out for a remote target", "truncation")
