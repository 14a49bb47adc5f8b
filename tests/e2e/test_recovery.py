"""Processes are killed and stopped in mid-stream: the text is the one it would have been."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from tests.cli.running import Installed
from tests.e2e.conftest import client_of
from tests.e2e.streaming import OPTIONS, stream, struck
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow]


@pytest.fixture(scope="module")
def undisturbed(demo: Installed) -> str:
    with client_of(demo) as client:
        return "".join(stream(client))


def process(demo: Installed, kind: str) -> int:
    return next(int(pid) for name, pid in demo.record["processes"].items() if name.startswith(kind))


def served_again(demo: Installed) -> None:
    wait_until(lambda: demo.status().get("healthy", False), "the system is healthy again", timeout_s=60)


@pytest.mark.parametrize(
    "after", [pytest.param(0, marks=pytest.mark.thorough), 2, pytest.param(4, marks=pytest.mark.thorough)]
)
def test_a_killed_speculator_changes_nothing_in_the_text(
    demo: Installed, client: OpenAI, undisturbed: str, after: int
) -> None:
    assert struck(client, process(demo, "speculator"), after=after) == undisturbed
    served_again(demo)


def test_a_killed_drafter_goes_unnoticed(demo: Installed, client: OpenAI, undisturbed: str) -> None:
    assert struck(client, process(demo, "drafter")) == undisturbed
    served_again(demo)


@pytest.mark.thorough
def test_a_stopped_drafter_is_not_waited_for(demo: Installed, client: OpenAI, undisturbed: str) -> None:
    drafter = process(demo, "drafter")
    os.kill(drafter, signal.SIGSTOP)  # for good: another one takes its place
    assert "".join(stream(client)) == undisturbed
    served_again(demo)
    assert process(demo, "drafter") != drafter


def test_a_killed_broker_comes_back_and_the_stream_goes_on(demo: Installed, client: OpenAI, undisturbed: str) -> None:
    assert struck(client, process(demo, "broker")) == undisturbed
    served_again(demo)


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["speculator", "broker"])
def test_what_is_stopped_for_good_is_replaced_and_the_stream_goes_on(
    demo: Installed, client: OpenAI, undisturbed: str, victim: str
) -> None:
    before = process(demo, victim)
    assert struck(client, before, signal.SIGSTOP) == undisturbed
    served_again(demo)
    assert process(demo, victim) != before
    assert "it was stopped" in demo.twd("doctor").stdout


@pytest.mark.thorough
def test_an_edge_that_is_stopped_for_good_is_replaced(demo: Installed, client: OpenAI, undisturbed: str) -> None:
    before = process(demo, "edge")
    os.kill(before, signal.SIGSTOP)
    wait_until(lambda: process(demo, "edge") not in (0, before), "there is another one")
    served_again(demo)
    assert "".join(stream(client)) == undisturbed


def test_a_client_that_leaves_frees_its_session(demo: Installed, client: OpenAI) -> None:
    endless = {**OPTIONS, "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    answer = client.chat.completions.create(**endless, stream=True)  # type: ignore[call-overload]
    job = next(iter(answer)).id.removeprefix("chatcmpl-")
    answer.close()

    def given_up() -> bool:
        told = demo.twd("trace", job).stdout
        return "session.closed" in told and "job.failed" in told

    wait_until(given_up, "its session is closed before its text is whole", timeout_s=30)


def test_many_streams_at_once_are_all_whole(client: OpenAI, undisturbed: str) -> None:
    texts: list[str] = []

    def ask() -> None:
        texts.append("".join(stream(client)))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert texts == [undisturbed] * 6


@pytest.mark.thorough
def test_nothing_outlives_the_supervisor(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    installed = Installed(tmp_path_factory.mktemp("killed") / "home")
    installed.take_demo_files(model_cache)
    try:
        installed.up("--demo")
        pids = installed.pids()
        os.kill(pids["supervisor"], signal.SIGKILL)
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids.values()), "every process is gone")
    finally:
        installed.clean_up()
