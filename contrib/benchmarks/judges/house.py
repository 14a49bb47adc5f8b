"""An installation for a measurement, and questions to it over HTTP."""

import json
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from twd.bench.product.whole_system import WholeSystem
from twd.engine.demo_model import demo_model
from twd.net.ports import free_port

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twd" / "judges"
TIMEOUT_S: Final = 120
DRAFTER: Final = "q8_0"
ALWAYS_JUDGED: Final = {"economy": False, "audit": 0.0, "cache_identical": False}
"""Settings of a gate that judges each answer once."""


def weights(kind: str) -> str:
    """The demo's model with such weights, written once."""
    return str(demo_model(CACHE, kind))


@dataclass
class Answer:
    """One answer, and what twd tells of it."""

    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    first_s: float = 0.0
    whole_s: float = 0.0


class House(WholeSystem):
    """A running installation."""

    def ask(self, model: str, messages: list[dict[str, Any]], *, stream: bool, **fields: Any) -> Answer:
        """Ask for one answer."""
        body = {"model": model, "messages": messages, "temperature": 0, "seed": 1, "stream": stream} | fields
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        began, answer = time.monotonic(), Answer()
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if not stream:
                told = json.load(response)
                answer.text, answer.facts = told["choices"][0]["message"]["content"], told["twd"]
                answer.usage = told["usage"]
            for line in response:
                if line.startswith(b"data: {"):
                    self._hear(answer, json.loads(line[6:]), time.monotonic() - began)
        answer.whole_s = time.monotonic() - began
        return answer

    def _hear(self, answer: Answer, chunk: dict[str, Any], at_s: float) -> None:
        if "error" in chunk:
            raise SystemExit(f"an answer failed: {chunk['error']}")
        text = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else ""
        answer.first_s = answer.first_s or (at_s if text else 0.0)
        answer.text += text or ""
        answer.facts = chunk.get("twd") or answer.facts
        answer.usage = chunk.get("usage") or answer.usage


@contextmanager
def house(
    models: dict[str, str], drafters: tuple[str, ...] = (DRAFTER,), up: tuple[str, ...] = (), **settings: Any
) -> Iterator[House]:
    """An installation in a folder of its own; `models` and `drafters` are files or kinds of the demo's weights, `up` is
    for `twd up`."""
    with tempfile.TemporaryDirectory(prefix="judges-") as folder:
        told: dict[str, Any] = {
            "bus": {"port": free_port()},
            "models": {name: {"path": _file(kind), "ctx_size": 1024, "parallel": 2} for name, kind in models.items()},
            "drafters": [{"path": _file(kind), "for_model": next(iter(models))} for kind in drafters],
            **settings,
        }
        started = House(Path(folder), told, ("--wait=all", *up))
        signal.signal(signal.SIGTERM, _end)
        try:
            started.start()
            yield started
        finally:
            started.stop()


def _end(number: int, frame: object) -> None:
    """End as by an error, so that nothing is left running."""
    raise SystemExit(f"ended by signal {number}")


def _file(kind: str) -> str:
    return kind if kind.endswith(".gguf") else weights(kind)
