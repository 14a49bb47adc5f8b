"""A model's chat template, rendered by a process with limits (`template_worker`).

Model files come from strangers. Whatever a template does ends within a second and 256 MiB, without this process's
memory or its interpreter lock. The process is started with the model and kept, so that a chat does not wait for it.
"""

import json
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import msgspec

from twd.chat.template_sandbox import MAX_SOURCE
from twd.chat.template_worker import CPU_S, FACTS, FAILURE, MEMORY_BYTES, TEXT, receive, send
from twd.process import platform
from twd.process.hang import RunState
from twd.wire.failures import FailureCode, TwdError

ARGV: Final = (sys.executable, "-P", "-m", "twd.chat.template_worker")
AT_ONCE: Final = 2
"""Renderings at one time, so that a short conversation does not wait for a long one."""
START_S: Final = 20.0
"""Seconds to start Python and its imports on a slow, busy machine."""
PATIENCE_S: Final = 5.0
"""Wall-clock seconds for CPU_S of work on a busy machine."""
FREE_CHARACTERS: Final = 1_000_000
TIMES_GIVEN: Final = 4
"""A template may write this much, and this many times as much as it is given."""
HOPELESS: Final = 2
"""A template that was killed this often and never made a text is not tried again."""


class _Process:
    """A worker process that has got no template yet."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                ARGV, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        self.pid = process.pid
        self.reaper = threading.Thread(target=process.wait, name="reap template worker", daemon=True)
        self.reaper.start()
        self.end = weakref.finalize(self, _end, process, self.line)


_begun: Final[deque[_Process]] = deque(maxlen=1)
"""A process that was begun before its template was there."""


def begin_worker() -> None:
    """Begin the process of the next template now: Python starts while the rest of the model is set up."""
    if not _begun:
        _begun.append(_Process())


def end_begun_worker() -> None:
    """End that process if no template came."""
    with suppress(IndexError):
        _begun.pop().end()


def _next_process() -> _Process:
    with suppress(IndexError):
        return _begun.pop()
    return _Process()


class _Worker:
    """One worker process."""

    def __init__(self, source: str) -> None:
        self._process = _next_process()
        self.line = self._process.line
        self.line.settimeout(START_S)
        try:
            self.facts = self.ask(source.encode("utf-8", "surrogatepass"))
        except BaseException:
            self.end()
            raise
        self.line.settimeout(PATIENCE_S)

    def ask(self, body: bytes) -> bytes:
        """Return the answer to one frame; raises OSError or EOFError if none comes."""
        send(self.line, body)
        return receive(self.line, MEMORY_BYTES)

    @property
    def runs(self) -> bool:
        """Whether the process was not stopped."""
        return platform.run_of(self._process.pid) is not RunState.STOPPED

    def end(self) -> None:
        """Kill the process and wait for it."""
        self._process.end()


def _end(process: "subprocess.Popen[bytes]", line: socket.socket) -> None:
    process.kill()
    line.close()
    process.wait()


class ConfinedTemplate:
    """Like `SandboxedTemplate`, in worker processes; several threads may render at one time."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TwdError(FailureCode.MODEL_LOAD, f"The model's chat template is longer than {MAX_SOURCE} characters.")
        self._source = source
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._idle: list[_Worker] = []
        self._ended = self._made = 0
        try:
            worker = _Worker(source)
        except (OSError, EOFError) as error:
            raise _too_much(FailureCode.MODEL_LOAD) from error
        words, names = msgspec.convert(json.loads(_content(worker.facts, FACTS)), tuple[list[str], list[str]])
        self._idle.append(worker)
        self.words, self.names = frozenset(words), frozenset(names)

    def render(self, variables: Mapping[str, Any], now: datetime) -> str:
        """Return the rendered text; raises TwdError if the template refuses, fails or exceeds a limit."""
        if self._ended >= HOPELESS and not self._made:
            raise _too_much(FailureCode.BAD_REQUEST)
        body = pickle.dumps((dict(variables), now), pickle.HIGHEST_PROTOCOL)
        made = _content(self._answer(body), TEXT)
        if len(made) > FREE_CHARACTERS + TIMES_GIVEN * len(body):
            text = f"The model's chat template makes {len(made)} bytes of a conversation of {len(body)}."
            raise TwdError(FailureCode.BAD_REQUEST, text, "messages")
        self._made += 1
        return made.decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """End the processes that wait; one that renders ends when nobody holds it."""
        while self._idle:
            self._idle.pop().end()

    def _answer(self, body: bytes) -> bytes:
        with self._turns:
            waiting = self._waiting()
            if waiting is not None:
                # It may have been killed or stopped just now: only a new process shows what the template does.
                with suppress(OSError, EOFError):
                    return self._ask(waiting, body)
            try:
                return self._ask(_Worker(self._source), body)
            except (OSError, EOFError) as error:
                self._ended += 1
                raise _too_much(FailureCode.BAD_REQUEST) from error

    def _ask(self, worker: _Worker, body: bytes) -> bytes:
        """Returns its answer, and keeps it; one that fails to answer is ended."""
        try:
            answer = worker.ask(body)
        except BaseException:
            worker.end()
            raise
        self._idle.append(worker)
        return answer

    def _waiting(self) -> _Worker | None:
        """Returns a process that waits; one that was stopped is ended, since it would let the request wait."""
        with suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.runs:
                    return worker
                worker.end()
        return None


def _content(answer: bytes, kind: bytes) -> bytes:
    """What stands in an answer of this kind; raises the failure that it tells of instead."""
    if answer[:1] == FAILURE:
        code, message, field = msgspec.convert(json.loads(answer[1:]), tuple[str, str, str])
        raise TwdError(FailureCode(code), message, field)
    if answer[:1] != kind:
        raise TwdError(FailureCode.BAD_REQUEST, "The model's chat template got out of order.", "messages")
    return answer[1:]


def _too_much(code: FailureCode) -> TwdError:
    bounds = f"{CPU_S:g} s of a processor or {MEMORY_BYTES >> 20} MiB"
    return TwdError(code, f"The model's chat template does too much: it was ended at {bounds}.", "messages")
