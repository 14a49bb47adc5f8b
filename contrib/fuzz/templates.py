"""Renders hostile chat templates as a speculator does, and asks a harmless one beside them.

usage: python -m contrib.fuzz.templates [MOST]     (in the root of the source tree)

Ends with exit status 1 where a template's process had a processor for longer than it may, or more memory.
"""

import resource
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from tests.chat import test_template_sandbox as sandbox
from tests.chat.hostile_templates import beyond_the_accounting
from twd.chat.template import CHATML
from twd.chat.template_process import ConfinedTemplate
from twd.chat.template_sandbox import SandboxedTemplate
from twd.chat.template_worker import CPU_S, MEMORY_BYTES
from twd.wire.failures import TwdError

NOW = datetime(2031, 5, 17, tzinfo=UTC)
CHAT = {"messages": [{"role": "user", "content": "Hello"}] * 8, "add_generation_prompt": True}
PAUSE_S = 0.02
TURNS = 1000
START_S = 0.6
"""What a start of Python and the imports may take of a processor, for each process."""


def hostile() -> list[str]:
    """Those of the tests, and those that the accounting does not see."""
    kept: list[Any] = [
        sandbox.test_hostile_and_broken_templates_are_refused,
        sandbox.test_what_a_template_keeps_stays_within_a_bound,
    ]
    return [*(source for test in kept for source in test.pytestmark[0].args[1]), *beyond_the_accounting()]


def spent() -> float:
    """Seconds of a processor of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def end_of(source: str) -> str:
    """What became of one."""
    try:
        template = ConfinedTemplate(source)
    except TwdError as error:
        return f"{error.code}: {str(error)[:60]}"
    try:
        return f"{len(template.render({'thing': []}, NOW))} characters"[-10:]
    except TwdError as error:
        return str(error).removeprefix("The model's chat template ")[:40]
    finally:
        template.close()


@contextmanager
def others() -> Iterator[list[float]]:
    """A harmless template, asked all the time: milliseconds of each rendering."""
    harmless, waits, over = ConfinedTemplate(CHATML), [0.0], threading.Event()

    def ask() -> None:
        while not over.wait(PAUSE_S):
            began = time.perf_counter()
            harmless.render(CHAT, NOW)
            waits.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()


def cost_of_apart() -> tuple[float, float]:
    """The median milliseconds of a harmless template here and in a process of its own, in turns."""
    here, apart = SandboxedTemplate(CHATML), ConfinedTemplate(CHATML)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2 * TURNS):
        began = time.perf_counter()
        (apart if turn % 2 else here).render(CHAT, NOW)
        taken[bool(turn % 2)].append((time.perf_counter() - began) * 1000)
    return statistics.median(taken[False]), statistics.median(taken[True])


def main() -> None:
    """Attack and report."""
    print("a harmless one, median: {:.3f} ms in this process, {:.3f} ms in its own".format(*cost_of_apart()))
    sources = hostile()[: int(sys.argv[1]) if len(sys.argv) > 1 else None]
    worst, ends = 0.0, Counter[str]()
    with others() as waits:
        for number, source in enumerate(sources):
            before = spent()
            ends[end_of(source)] += 1
            took = spent() - before
            worst = max(worst, took)
            if took > CPU_S + START_S:
                print(f"number {number} had a processor for {took:.2f} s: {source[:150]}")
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print("\n".join(f"{count:5} {end}" for end, count in ends.most_common()))
    print(f"{len(sources)} templates; the longest had a processor for {worst:.2f} s, its start included")
    print(f"the largest process had {most >> 20} MiB")
    middle = statistics.median(waits)
    print(f"the harmless one beside them: median {middle:.2f} ms, longest {max(waits):.0f} ms, {len(waits)} times")
    raise SystemExit(1 if worst > 2 * CPU_S + START_S or most > MEMORY_BYTES else 0)


if __name__ == "__main__":
    main()
