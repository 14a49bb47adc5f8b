"""What a deployment did on one machine: its steps, in order, with their times."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

StepState = Literal["running", "done", "unchanged", "failed", "taken back", "left"]


@dataclass
class DeployStep:
    """One step."""

    name: str
    state: StepState = "running"
    seconds: float = 0.0
    note: str = ""


@dataclass
class HostReport:
    """One machine."""

    host: str
    tell: Callable[[str], None]
    node: str = ""
    steps: list[DeployStep] = field(default_factory=list)
    error: str = ""
    lends: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[DeployStep]:
        """Time a step, and tell how it ended."""
        step = DeployStep(name)
        self.steps.append(step)
        began = time.monotonic()
        try:
            yield step
            step.state = "done" if step.state == "running" else step.state
        except BaseException as error:
            step.state, step.note = "failed", str(error)
            raise
        finally:
            step.seconds = round(time.monotonic() - began, 2)
            note = f": {step.note}" if step.note else ""
            self.tell(f"{self.host}: {step.name}: {step.state}, {step.seconds:g} s{note}")

    @property
    def changed(self) -> bool:
        """Whether this run changed anything there."""
        return any(step.state == "done" and step.name in CHANGING for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "host": self.host,
            "node": self.node,
            "ok": not self.error,
            "changed": self.changed,
            "lends": self.lends,
            "error": self.error,
            "steps": [vars(step) for step in self.steps],
        }


CHANGING = ("python", "install", "settings", "join", "start", "take over", "old versions")
"""Steps that change something, where they are not `unchanged`."""
