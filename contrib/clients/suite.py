"""A suite of calls: each is run on its own, told in a line when it fails, and counted."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

MODEL = os.environ.get("TWD_CLIENTS_MODEL", "default")
"""The model that is asked, by any of its names."""
STREAMS_DIFFER = MODEL.endswith("+consensus")
"""Where drafters vote, a streamed answer may have other words than a whole one, which stays exact."""
Check = Callable[[], object]


@dataclass
class Suite:
    """Named checks; each must raise when something is wrong."""

    client: str
    checks: list[tuple[str, Check]] = field(default_factory=list)

    def add(self, name: str, check: Check) -> None:
        """One more call."""
        self.checks.append((name, check))

    def each(self, name: str, values: Iterable[object], check: Callable[..., object]) -> None:
        """One call for each value; a tuple is spread over the arguments."""
        for value in values:
            arguments = value if isinstance(value, tuple) else (value,)
            self.add(f"{name} {value!r}"[:90], lambda arguments=arguments: check(*arguments))  # type: ignore[misc]

    def run(self) -> int:
        """Run all; returns the exit code."""
        began, failed = time.monotonic(), 0
        for name, check in self.checks:
            try:
                check()
            except Exception as error:  # noqa: BLE001 - each failure is a line of the report
                failed += 1
                place = traceback.extract_tb(error.__traceback__)[-1].lineno
                print(f"FAILED {self.client}: {name}: {type(error).__name__} (line {place}): {str(error)[:300]}")
        took = time.monotonic() - began
        print(f"{self.client}: {len(self.checks) - failed} of {len(self.checks)} calls pass, {took:.0f} s")
        return 1 if failed else 0


def base_url() -> str:
    """Where twd is, as run.sh says it."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} http://127.0.0.1:8088")
    return sys.argv[1].rstrip("/")


def refused(call: Check, kind: type[Exception], *words: str) -> None:
    """The call must fail with this error, and say these words."""
    try:
        call()
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"no {kind.__name__} came")
    assert all(word in said for word in words), f"not all of {words} in: {said}"
