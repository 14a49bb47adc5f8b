"""For all tests: no settings leak in from outside, and no process is left behind."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Generator, Iterator
from functools import partial

import psutil
import pytest

from tests.cli.command_server import SERVER
from tests.properties import THOROUGH, register_profiles
from twd.engine.measuring.cost import measure_cost

pytest_plugins = ["tests.model_fixtures", "tests.installation_fixtures"]

register_profiles()


WHOLE = ("tests/e2e/", "tests/cli/", "tests/readme/")
"""Where tests start whole installations, many processes each."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is made for thousands of tests is garbage before the end: to look for some takes seconds. Later,
    too, it is looked for less often than usual."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole installations come first, on one worker: two at a time hold each other up. Other slow tests begin the next
    worker's part. At the end all workers share what is quick."""
    items.sort(key=lambda item: (not item.nodeid.startswith(WHOLE), item.get_closest_marker("slow") is None))
    whole = sum(item.nodeid.startswith(WHOLE) for item in items)
    slow = [item for item in items[whole:] if item.get_closest_marker("slow") is not None]
    part = len(items) // getattr(config, "workerinput", {"workercount": 1})["workercount"]
    quick = items[whole + len(slow) :]
    before = max(0, part - whole)
    items[whole:] = [*quick[:before], *slow, *quick[before:]]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TWD_") and not name.startswith("TWD_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _this_process_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in the process of the tests find that they cannot have a fork server."""
    monkeypatch.setattr("twd.cli.fork_server.fork_off", lambda: None)


@pytest.fixture(scope="session", autouse=True)
def _engines_take_one_core_and_are_timed_once(pytestconfig: pytest.Config) -> Iterator[None]:
    """Quick tests occupy all cores side by side: threads of one engine would mostly wait for each other, and a second
    turn of the same pass tells little. Whole installations, tests that name threads, and the thorough run take more."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--hypothesis-profile") != THOROUGH:
            patch.setattr("twd.engine.context.usable_cores", lambda: 1)
            patch.setattr("twd.engine.measuring.at_load.measure_cost", partial(measure_cost, budget_s=0.0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left_behind() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    SERVER.close()
    gc.collect()  # what nobody holds any more ends its process
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    names = [" ".join(child.cmdline())[:200] for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    for child in alive:
        child.kill()
    assert not names, f"tests left processes behind: {names}"


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server on loopback that says back what it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
