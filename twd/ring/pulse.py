"""The pulse of a link: which keep-alive messages to send and when, and what their answers say of the link."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twd.ring.frames import BULK_PROBE, LinkPong, LinkProbe, RingMessage

_PROBES_KEPT: Final = 64
_OWED_MAX: Final = 64
_BULK_EVERY: Final = 75
_BULK_FIRST: Final = 2
_QUIET_BYTES: Final = 512
_SMOOTH: Final = 0.2
_NOISE: Final = 0.1

Due = list[tuple[RingMessage, bytes]]


class LinkPulse:
    """Sends probes at a steady pace and pongs at once; now and then, on a quiet link, a long probe to measure
    bandwidth."""

    def __init__(self, probe_s: float, sent_bytes: Callable[[], int]) -> None:
        self.rtt_s = 0.0
        self.rtt_min_s = 0.0
        self.bandwidth = 0.0
        self._probe_s = probe_s
        self._sent_bytes = sent_bytes
        self._sent_before = 0
        self._change = threading.Condition()
        self._owed: list[int] = []
        self._out: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._number = 0
        self._stopped = False
        self._next_at = 0.0

    def owe(self, number: int) -> None:
        """Record that a probe came and needs a pong; probes beyond _OWED_MAX waiting ones get none."""
        with self._change:
            if len(self._owed) < _OWED_MAX:
                self._owed.append(number)
            self._change.notify()

    def stop(self) -> None:
        """Stop; `due` returns None from now on."""
        with self._change:
            self._stopped = True
            self._change.notify()

    def due(self) -> Due | None:
        """Wait until something must be sent, and return it; None when stopped."""
        with self._change:
            while not self._stopped:
                pongs: Due = [(LinkPong(number), b"") for number in self._owed]
                self._owed.clear()
                left = self._next_at - time.monotonic()
                if left <= 0:
                    return [*pongs, self._probe()]
                if pongs:
                    return pongs
                self._change.wait(left)
        return None

    def answered(self, number: int) -> None:
        """Record a pong and measure with it; ignores one that belongs to no probe."""
        with self._change:
            sent = self._out.pop(number, None)
            if sent is None:
                return
            at, size = sent
            took = max(time.monotonic() - at, 1e-6)
            if size:
                self.bandwidth = size / max(took - self.rtt_min_s, _NOISE * took)
                return
            self.rtt_s += (took - self.rtt_s) * (_SMOOTH if self.rtt_s else 1.0)
            self.rtt_min_s = min(took, self.rtt_min_s or took)

    def _probe(self) -> tuple[RingMessage, bytes]:
        now, sent = time.monotonic(), self._sent_bytes()
        quiet = sent - self._sent_before < _QUIET_BYTES
        self._number += 1
        size = BULK_PROBE if quiet and self._number % _BULK_EVERY == _BULK_FIRST else 0
        self._sent_before = sent + size
        self._out[self._number] = now, size
        if len(self._out) > _PROBES_KEPT:
            self._out.popitem(last=False)
        self._next_at = now + self._probe_s
        return LinkProbe(self._number), bytes(size)
