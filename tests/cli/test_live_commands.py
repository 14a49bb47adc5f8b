"""Commands that talk to a running system: what is told about a process that is killed."""

import asyncio
import json
import os
import signal
import subprocess

import pytest

from tests.cli.running import TWD, Installed
from tests.signed import signed
from tests.waiting import wait_until
from twd.bus.address import BusAddress
from twd.bus.nats.bus import NatsBus
from twd.wire.base import Event, NodeId
from twd.wire.codec import decode, encode
from twd.wire.routes import subject_of
from twd.wire.service import ServiceStopped

pytestmark = [pytest.mark.e2e, pytest.mark.nats]


def watching(installed: Installed, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*TWD, "watch", *arguments], env=installed.env, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )


async def tell(installed: Installed, watcher: "subprocess.Popen[str]", event: Event) -> str:
    """Publish an event again and again until the watcher, which takes a while to listen, has heard enough."""
    record = installed.record
    bus = await NatsBus.connect(BusAddress(record["bus_url"], token=record["bus_token"]), name="test.teller")
    try:
        async with asyncio.timeout(60):
            while watcher.poll() is None:
                bus.publish(subject_of(signed(event)), encode(signed(event)))
                await asyncio.sleep(0.05)
    finally:
        await bus.close()
    assert watcher.stdout is not None
    return watcher.stdout.read()


async def test_events_are_watched_as_lines_or_as_they_are(house: Installed) -> None:
    event = ServiceStopped(service="toaster", node=NodeId("shelf"), reason="cold")
    with watching(house, "service", "-n", "2", "--filter", "node=shelf") as watcher:
        plain = await tell(house, watcher, event)
    assert plain.count("service.stopped") == 2
    assert "toaster on shelf: cold" in plain
    assert "\033" not in plain

    with watching(house, "twd.v1.service.>", "--json", "-n", "1", "--filter", "service=toaster") as watcher:
        line = await tell(house, watcher, event)
    assert decode(line.encode()) == signed(event)


def test_a_killed_process_is_in_the_logs_and_status_is_well_again(house: Installed) -> None:
    before = house.pids()["metrics"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: house.pids()["metrics"] not in (0, before), "metrics is back")
    wait_until(lambda: house.twd("status").returncode == 0, "all is well")
    assert f"metrics (pid {before}) ended with exit code -9" in house.twd("logs", "supervisor").stdout
    unknown = house.twd("trace", "job-unknown")
    assert unknown.returncode == 9
    assert "nobody remembers" in unknown.stderr
    assert house.twd("trace").stdout == "no job has ended yet\n"
    assert json.loads(house.twd("trace", "--json").stdout) == []


@pytest.mark.thorough
def test_status_tells_of_a_process_that_is_silent(installed: Installed) -> None:
    installed.env["TWD_HANG_S"] = "0"
    installed.up()
    pid = installed.pids()["metrics"]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "metrics" in installed.status().get("missing", []), "its lease ran out", timeout_s=60)
        assert installed.twd("status").returncode == 3
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: installed.twd("status").returncode == 0, "it is back")
    assert installed.twd("down").returncode == 0


def test_a_service_alone_joins_what_runs_here_and_leaves_in_order(installed: Installed) -> None:
    installed.up("edge")
    alone = subprocess.Popen([*TWD, "run", "metrics"], env=installed.env, stderr=subprocess.PIPE, text=True)
    with alone:
        wait_until(lambda: installed.state_of("metrics") == ("ready", alone.pid), "metrics is there")
        alone.terminate()
        assert alone.wait(30) == 0
    assert installed.state_of("metrics") == ("", 0)
    assert installed.twd("down").returncode == 0


def test_a_service_without_a_bus_says_what_to_do(installed: Installed) -> None:
    nothing = installed.twd("run", "metrics")
    assert nothing.returncode == 4
    assert "twd up" in nothing.stderr
    refused = installed.twd("run", "metrics", TWD_BUS_URL="nats://127.0.0.1:1", TWD_BUS_NKEY_FILE="none.nk")
    assert refused.returncode
    assert "none.nk" in refused.stderr
    assert "Traceback" not in refused.stderr
