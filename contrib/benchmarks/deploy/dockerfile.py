"""Reads a Dockerfile: its stages, and the steps of each."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_FLAG: Final = re.compile(r"--([a-z-]+)=(\S+)\s+")
_NAME: Final = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_PAIR: Final = re.compile(r"(\w+)=(\"[^\"]*\"|\S*)")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its word in capitals, its `--flags`, and the rest."""

    word: str
    flags: dict[str, str]
    text: str

    @property
    def pairs(self) -> dict[str, str]:
        """What ENV or ARG sets."""
        return {name: value.strip('"') for name, value in _PAIR.findall(self.text)}

    @property
    def command(self) -> list[str]:
        """What ENTRYPOINT or CMD runs."""
        return list(json.loads(self.text)) if self.text.startswith("[") else ["/bin/sh", "-c", self.text]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its name, what it begins with, and its steps."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)


def read_stages(text: str) -> tuple[dict[str, str], list[Stage]]:
    """Return the arguments that stand before the first stage, and the stages in their order."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for step in _steps(text):
        if step.word == "FROM":
            base, *named = step.text.split()
            stages.append(Stage(named[1] if named else "", base))
        elif stages:
            stages[-1].steps.append(step)
        else:
            arguments |= step.pairs
    return arguments, stages


def _steps(text: str) -> list[Step]:
    kept = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [_step(line) for line in "\n".join(kept).replace("\\\n", "").splitlines()]


def _step(line: str) -> Step:
    word, rest = line.strip().split(maxsplit=1)
    flags: dict[str, str] = {}
    while word in ("COPY", "FROM", "RUN", "ADD") and (found := _FLAG.match(rest)):
        flags[found[1]] = found[2]
        rest = rest[found.end() :]
    return Step(word.upper(), flags, rest.strip())


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Put values for `$NAME` and `${NAME}`; one that is not set is empty."""
    return _NAME.sub(lambda found: values.get(found[1] or found[2], ""), text)
