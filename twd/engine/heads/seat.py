"""The place of a head beside a target. What goes wrong with a head costs its guesses, and nothing else."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Self

from twd.decoding.window import Sampler, VerifyResult
from twd.engine.heads.head import GuessingHead
from twd.wire.failures import TwdError

__all__ = ["GuessingHead", "HeadSeat"]
_log = logging.getLogger("twd.engine")


class HeadSeat:
    """Gives a head what the target computed, and asks it for guesses; each call tells how long it took."""

    def __init__(self, head: GuessingHead) -> None:
        self._head = head
        self.works = True
        """False once it has failed; then it is not asked again."""

    @classmethod
    def of(cls, head: GuessingHead | None) -> Self | None:
        """The seat of a head; None: there is no head."""
        return None if head is None else cls(head)

    @property
    def name(self) -> str:
        """What status calls it."""
        return self._head.name

    @property
    def step_ms(self) -> float:
        """The milliseconds of one guess."""
        return self._head.step_ms

    def read(self, slot: int, at: int, tokens: Sequence[int], rows: int, start: int) -> float:
        """Let it read tokens of the target's last pass, which had `rows` tokens; these begin at index `start`."""

        def work() -> None:
            self._head.read(slot, at, tokens, self._head.pass_rows(rows)[start : start + len(tokens)])

        return self._timed(work) if tokens else 0.0

    def guess(
        self, verdict: VerifyResult, text: Sequence[int], count: int, sampler: Sampler, least: float = 0.0
    ) -> None:
        """Add its guesses behind `text` to a verdict."""

        def work() -> None:
            verdict.guesses, verdict.sure = self._head.guess(verdict.slot, text, count, sampler, least)

        verdict.aside_ms += self._timed(work)

    def forget(self, slot: int) -> None:
        """Begin anew with a slot: its text is another one now."""
        self._timed(lambda: self._head.forget(slot))

    def use_threads(self, threads: int) -> None:
        """Compute with this number of threads from now on."""
        self._head.use_threads(threads)

    def close(self) -> None:
        """Free the memory."""
        self._head.close()

    def _timed(self, work: Callable[[], None]) -> float:
        if not self.works:
            return 0.0
        began = time.perf_counter()
        try:
            work()
        except TwdError as error:
            self.works = False
            _log.warning("the model's head is left aside: %s", error)
        return (time.perf_counter() - began) * 1000
