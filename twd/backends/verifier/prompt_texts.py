"""The texts of prompts. They are requested from the server while a job is prepared, so that opening a session never
waits.
"""

import concurrent.futures
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from twd.backends.clients.base import Backend
from twd.backends.verifier.loop_thread import LoopThread
from twd.backends.verifier.token_texts import TokenTexts
from twd.wire.failures import TwdError

WAIT_S: Final = 1.0
"""The most seconds that a job waits for the text of its prompt, if drafters work on text."""
KEPT_MAX: Final = 64

Tokens = tuple[int, ...]
Reading = concurrent.futures.Future[str]

log = logging.getLogger("twd.backends")


class PromptTexts:
    """Keeps the texts of the latest prompts. Several threads prepare jobs; another one opens sessions."""

    def __init__(self, backend: Backend, texts: TokenTexts, loop: LoopThread) -> None:
        self._backend = backend
        self._texts = texts
        self._loop = loop
        self._readings: OrderedDict[Tokens, Reading] = OrderedDict()
        self._lock = threading.Lock()
        self._wanted = False
        """Whether any caller has asked for a text yet."""

    def prepare(self, tokens: Sequence[int]) -> None:
        """Request the text of a prompt; blocks for a limited time if texts are needed."""
        reading = self._read(tuple(tokens))
        if self._wanted:
            concurrent.futures.wait([reading], WAIT_S)

    def of(self, tokens: Sequence[int]) -> str:
        """The text of tokens that begin with a known prompt, without waiting; empty if it is not known yet."""
        self._wanted, whole = True, tuple(tokens)
        with self._lock:
            known = [(start, reading) for start, reading in self._readings.items() if whole[: len(start)] == start]
        for start, reading in sorted(known, key=lambda one: -len(one[0])):
            begun = _result(reading)
            rest = self._texts.joined_if_known(whole[len(start) :]) if begun else None
            if rest is not None:
                return begun + rest
        self._read(whole)  # so that it is known at the next call
        return ""

    def _read(self, tokens: Tokens) -> Reading:
        with self._lock:
            reading = self._readings.get(tokens)
            if reading is None or (reading.done() and not _result(reading)):
                reading = self._loop.start(self._backend.detokenize(tokens))
            self._readings[tokens] = reading
            self._readings.move_to_end(tokens)
            while len(self._readings) > KEPT_MAX:
                self._readings.popitem(last=False)[1].cancel()
            return reading


def _result(reading: Reading) -> str:
    if not reading.done() or reading.cancelled():
        return ""
    error = reading.exception()
    if isinstance(error, TwdError):
        log.info("drafters by text must do without a prompt's: %s", error)
        return ""
    return reading.result()
