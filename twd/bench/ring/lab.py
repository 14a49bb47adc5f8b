"""A ring of local processes with simulated link delays, and a client that runs texts on it."""

import asyncio
import itertools
import json
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from twd.decoding.cost import CostCurve
from twd.kit.effects import Effect, Publish
from twd.net.delay_proxy import DelayProxy
from twd.ring.driver import RingDriver
from twd.ring.frames import SessionSpec
from twd.ring.links import SWITCH_S, ProbePace
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.ring.trial import pipe_of
from twd.ring.trust import RingTrust, make_identity, ring_nonce
from twd.ring.wiring import wirings
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.speculator.runner import Command, Runner
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobFailed, JobFinished, JobSubmitted, Prompt, Sampling, Speculation, TokensAccepted
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash
from twd.wire.ring import StageReady, StateFormat

_HOME: Final = InstanceId("speculator.bench")
_CONNECT_S: Final = 30.0
_TEXT_S: Final = 300.0
Guess = Callable[[Sequence[int]], list[int]]
"""From all tokens so far to the draft."""


@dataclass(frozen=True, slots=True)
class RingPlan:
    """The model and its stages."""

    source: Path
    folder: Path
    cuts: tuple[int, ...]
    """The first layer of each stage; the last number is the number of layers."""
    ctx_size: int = 1024
    parallel: int = 8
    threads: int = 1
    plain: bool = False
    """Without encryption."""
    moe_memory: int = 0
    """If given, each stage reads its experts from disk, and has so many bytes for them."""


class RingLab:
    """The stages; each call of `ring` connects them anew, with another delay."""

    def __init__(self, plan: RingPlan) -> None:
        self.plan = plan
        self.stages: list[StageReady] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._identity = make_identity(_HOME)
        self._rings = 0
        sys.setswitchinterval(SWITCH_S)

    def __enter__(self) -> Self:
        cuts = self.plan.cuts
        for timed in self.plan.folder.glob("stage-*.json"):
            timed.unlink(missing_ok=True)  # times that were measured on a busy machine would falsify all later runs
        try:
            for first, end in itertools.pairwise(cuts):
                self._processes.append(self._start(first, end))
                self.stages.append(msgspec.json.decode(self._line(-1), type=StageReady))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self, first: int, end: int) -> "subprocess.Popen[bytes]":
        plan = self.plan
        wanted = {
            "source": str(plan.source),
            "folder": str(plan.folder),
            "first": first,
            "end": end,
            "layers": plan.cuts[-1],
            "ctx_size": plan.ctx_size,
            "parallel": plan.parallel,
            "threads": plan.threads,
            "plain": plan.plain,
            "moe_memory": plan.moe_memory,
        }
        command = [sys.executable, "-m", "twd.bench.ring.stage", json.dumps(wanted)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _line(self, number: int) -> bytes:
        out = self._processes[number].stdout
        assert out is not None
        line = out.readline()
        if not line:
            raise TwdError(FailureCode.MODEL_LOAD, "a stage ended before it was ready; its words are above")
        return line

    def close(self) -> None:
        """Stop all stages."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_pipes(process)

    @contextmanager
    def ring(self, rtt_ms: float, in_flight: int, vocabulary: int) -> Iterator["RingClient"]:
        """Yield a client of a ring whose links take half of `rtt_ms` each way, with at most `in_flight` windows."""
        with _delayed(self.stages, rtt_ms) as (seen_by_stages, seen_by_home):
            desk = RingClient(self._wire(seen_by_stages, seen_by_home), self.stages, in_flight, vocabulary)
            try:
                yield desk
            finally:
                desk.close()

    def wire(self) -> RingDriver:
        """Return a ring without delay."""
        return self._wire(self.stages, self.stages)

    def _wire(self, seen_by_stages: Sequence[StageReady], seen_by_home: Sequence[StageReady]) -> RingDriver:
        self._rings += 1
        trust = RingTrust(f"bench-{self._rings}", ring_nonce(), "", not self.plan.plain)
        told = wirings(seen_by_stages, trust, _HOME, self._identity.certificate, StateFormat.F32)
        for number, wired in enumerate(told):
            self._tell(number, msgspec.json.encode(wired))
        deadline = time.monotonic() + _CONNECT_S
        return RingDriver.connect(seen_by_home, trust, self._identity, _HOME, deadline, ProbePace())

    def strike(self, number: int, signal: int) -> None:
        """Send a signal to a stage that it cannot handle."""
        self._processes[number].send_signal(signal)

    def replace(self, number: int) -> None:
        """Start a new process for a lost stage."""
        lost = self._processes[number]
        lost.kill()
        lost.wait()
        _close_pipes(lost)
        self._processes[number] = self._start(*itertools.islice(self.plan.cuts, number, number + 2))
        self.stages[number] = msgspec.json.decode(self._line(number), type=StageReady)

    def computed(self) -> float:
        """Return the rows that the stages have computed, on average."""
        return sum(self._tell(number, b"") for number in range(len(self.stages))) / len(self.stages)

    def _tell(self, number: int, line: bytes) -> int:
        into = self._processes[number].stdin
        assert into is not None
        into.write(line + b"\n")
        into.flush()
        return int(self._line(number))


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def _delayed(stages: Sequence[StageReady], rtt_ms: float) -> Iterator[tuple[list[StageReady], list[StageReady]]]:
    """Yield the stages through delay proxies: as the previous stage and as the driver see them."""
    if not rtt_ms:
        yield list(stages), list(stages)
        return
    proxies = [DelayProxy(stage.host, stage.port, rtt_ms / 2000) for stage in (*stages, *stages)]
    try:
        ports = [asyncio.run(proxy.start()) for proxy in proxies]
        seen = [
            msgspec.structs.replace(stage, port=port) for stage, port in zip((*stages, *stages), ports, strict=True)
        ]
        yield seen[: len(stages)], seen[len(stages) :]
    finally:
        for proxy in proxies:
            asyncio.run(proxy.close())


@dataclass(slots=True)
class MeasuredText:
    """One answer with its times."""

    tokens: list[int]
    decode_ms: float
    first_ms: float
    times: list[float]
    """The time of each token in seconds."""


@dataclass
class _Job:
    opening: PreparedRequest
    known: list[int]
    guess: Guess | None
    prompt: int
    times: list[float] = field(default_factory=list)
    done: "queue.SimpleQueue[JobFinished | JobFailed]" = field(default_factory=queue.SimpleQueue)


class RingClient:
    """Runs jobs with the real core and runner over a ring, with drafts from `Guess`."""

    def __init__(self, home: RingDriver, stages: Sequence[StageReady], in_flight: int, vocabulary: int) -> None:
        self.home = home
        self.hears: Callable[[Event], None] = lambda event: None
        """Called with every event, on the engine's thread."""
        self.sampling = Sampling()
        """Of the texts to come."""
        self._jobs: dict[SessionId, _Job] = {}
        self._count = 0
        self._failures: list[BaseException] = []
        pipe = pipe_of(stages, home.bounds.credits)
        self.target = target = RingTarget(home, pipe, vocabulary=vocabulary, in_flight=in_flight)
        vocab = VocabFingerprint(hash="bench", tokens=vocabulary)
        identity = SpeculatorIdentity(ModelId("bench"), _HOME, NodeId("bench"), vocab)
        limits = SpeculatorLimits(
            slots=target.n_slots,
            ctx_size=target.ctx_size,
            max_window=min(32, target.window_max - 1),
            ahead=128,
            prefill_rows=target.window_max,
            in_flight=in_flight,
            ngram=False,
            head_ms=stages[-1].guess_ms,
        )
        core = SpeculatorCore(identity, limits, pipe.trip_ms, pipe=pipe)
        self._runner = Runner(core, target, CostCurve(pipe.points()), self._deliver, self._failures.append)
        self._runner.start()

    def speak(
        self, prompts: Sequence[Sequence[int]], count: int, guess: Sequence[Guess | None], window: int = 0
    ) -> list[MeasuredText]:
        """Run all prompts at the same time."""
        jobs = [self._submit(prompt, count, one, window) for prompt, one in zip(prompts, guess, strict=True)]
        return [self._spoken(job) for job in jobs]

    def _submit(self, prompt: Sequence[int], count: int, guess: Guess | None, window: int) -> _Job:
        self._count += 1
        job = JobSubmitted(
            job=JobId(f"job{self._count}"),
            model=ModelId("bench"),
            owner=InstanceId("bench"),
            prompt=Prompt(text=""),
            max_tokens=count,
            ignore_eos=True,
            speculation=Speculation(enabled=guess is not None, window=window),
        )
        spec = SessionSpec(self.sampling, 0, len(prompt), ignore_eos=True)
        opening = PreparedRequest(
            SessionId(f"s{self._count}"), list(prompt), RemoteSpecSampler(spec), lambda _: b"", frozenset(), 0
        )
        held = self._jobs[opening.session] = _Job(opening, list(prompt), guess, len(prompt))
        self._runner.post(lambda core, now: core.submit(job, opening, now))
        self._propose(opening.session, held)
        return held

    def _spoken(self, job: _Job) -> MeasuredText:
        try:
            end = job.done.get(timeout=_TEXT_S)
        except queue.Empty:
            reason = self._failures[0] if self._failures else "no reason known"
            raise TwdError(FailureCode.DEADLINE, f"no text within {_TEXT_S:g} s: {reason}") from None
        if isinstance(end, JobFailed):
            raise TwdError(end.failure.code, end.failure.message)
        return MeasuredText(job.known[job.prompt :], end.stats.decode_ms, end.stats.prefill_ms, job.times)

    def _deliver(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self.hears(effect.event)
                match effect.event:
                    case TokensAccepted(session=session, tokens=tokens) if tokens:
                        job = self._jobs[session]
                        job.known += tokens
                        job.times += [time.perf_counter()] * len(tokens)
                        self._propose(session, job)
                    case JobFinished() | JobFailed() as end:
                        self._jobs.pop(end.session).done.put(end)

    def _propose(self, session: SessionId, job: _Job) -> None:
        if job.guess is None:
            return
        tokens = job.guess(job.known)
        event = DraftProposed(
            session=session, drafter=InstanceId("d"), at=len(job.known), prefix=prefix_hash(job.known), tokens=tokens
        )
        self.post(lambda core, now: core.draft(event, tokens, now))

    def post(self, command: Command) -> None:
        """Run a command on the engine's thread."""
        self._runner.post(command)

    def close(self) -> None:
        """Disconnect from the ring."""
        self._runner.stop()
        self.home.join()
