"""One audit: the target writes a passed answer itself. If the texts differ, it is asked which one is better."""

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from twd.gate.calibration.parts import TARGET, Parts
from twd.gate.prompt_judge import comparison
from twd.gate.trust import AuditTask
from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobStarted, JobSubmitted, TokensAccepted

Done = Callable[[AuditTask, bool | None, float], None]
"""Takes the task, whether the answer was wrong (None: not known), and the target's milliseconds."""


@dataclass
class AuditRun:
    """Runs the parts of one audit."""

    task: AuditTask
    parts: Parts
    owner: InstanceId
    done: Done
    texts: dict[int, list[str]] = field(default_factory=dict)
    target_ms: float = 0.0

    def begin(self) -> None:
        """Let the target write."""
        self._open(1, replace(self.task.job, speculation=replace(self.task.job.speculation, prediction=self.task.text)))

    def _open(self, number: int, job: JobSubmitted) -> None:
        name = JobId(f"{self.task.job.job}-audit-{number}")
        target = ModelId(self.task.target)
        part = replace(job, job=name, model=target, owner=self.owner, attempt=1, whole=True, resume=[], judge=None)
        self.parts.open(number, part, self, TARGET)

    def started(self, number: int, event: JobStarted) -> None:
        """A part has started; nothing to do."""

    def text(self, number: int, event: TokensAccepted) -> None:
        """A part sent text."""
        self.texts.setdefault(number, []).append(event.text)

    def finished(self, number: int, event: JobFinished) -> None:
        """A part has finished: compare the texts, or start the next part."""
        self.texts.setdefault(number, []).append(event.tail)
        self.target_ms += event.stats.prefill_ms + event.stats.decode_ms
        own = self._said(1)
        if number == 1 and (own == self.task.text or self.task.error == "same"):
            self.done(self.task, own != self.task.text, self.target_ms)
        elif number == 1:
            self._open(2, comparison(self.task.job, own, self.task.text))
        elif number == 2:
            self._open(3, comparison(self.task.job, self.task.text, own))
        else:
            self.done(self.task, self._said(2) == "A" and self._said(3) == "B", self.target_ms)

    def failed(self, number: int, failure: Failure) -> None:
        """A part failed, so the audit has no result."""
        self.done(self.task, None, self.target_ms)

    def _said(self, number: int) -> str:
        return "".join(self.texts.get(number, [])).strip() if number > 1 else "".join(self.texts.get(number, []))
