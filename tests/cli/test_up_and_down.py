"""The whole system as a user starts it, with real processes and a real broker; no model is loaded."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.cli.running import TWD, Installed, all_gone
from tests.waiting import alive, wait_until
from twd.process import platform

pytestmark = [pytest.mark.e2e, pytest.mark.nats]


def test_up_is_ready_and_down_ends_it_all(installed: Installed) -> None:
    answer = installed.up()
    assert answer["ready"]
    assert answer["addresses"]["api"] == f"http://127.0.0.1:{installed.port}"
    assert set(answer["processes"]) == {"broker", "edge", "metrics", "agent", "swarm"}
    pids = installed.pids()
    assert {name: process["pid"] for name, process in answer["processes"].items()}.items() <= pids.items()

    status = installed.twd("status")
    assert status.returncode == 0, status.stdout
    assert "edge" in status.stdout
    assert "\033" not in status.stdout

    down = installed.twd("down", "--json")
    assert json.loads(down.stdout)["killed"] is False
    all_gone(pids)
    assert installed.twd("status").returncode == 4
    again = installed.twd("down")
    assert (again.returncode, again.stdout) == (0, f"nothing runs in {installed.home}\n")


def test_no_secret_is_in_a_command_line_or_a_readable_file(house: Installed) -> None:
    token = house.record["bus_token"]
    assert len(token) >= 32
    for pid in house.pids().values():
        with open(f"/proc/{pid}/cmdline") as file:
            assert token not in file.read()
    readable = [path for path in house.home.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert not [path for path in readable if token in path.read_text(errors="replace")]


def test_the_second_is_refused_and_the_first_goes_on(house: Installed) -> None:
    for arguments in (["up"], ["up", "-d"]):
        second = house.twd(*arguments)
        assert second.returncode == 5
        assert f"pid {house.record['pid']}" in second.stderr
        assert str(house.port) in second.stderr
    assert house.twd("status").returncode == 0


@pytest.mark.thorough
def test_two_installations_run_side_by_side(installations: Callable[[], Installed]) -> None:
    one, other = installations(), installations()
    one.up()
    other.up()
    others = other.pids()
    assert one.twd("down").returncode == 0
    assert all(alive(pid) for pid in others.values())
    assert other.twd("status").returncode == 0
    assert other.twd("down").returncode == 0
    all_gone(others)


def test_nobody_outlives_a_killed_supervisor_and_the_next_one_starts(installed: Installed) -> None:
    installed.up("metrics")
    pids = installed.pids()
    os.kill(installed.record["guard"], signal.SIGKILL)
    all_gone(pids)
    assert installed.twd("status").returncode == 4
    installed.up("metrics")
    assert installed.pids()["supervisor"] != pids["supervisor"]
    assert installed.twd("down").returncode == 0


def test_a_killed_supervisor_is_replaced_with_all_it_kept_and_down_ends_the_new_one(installed: Installed) -> None:
    installed.up("metrics")
    pids = installed.pids()
    os.kill(pids["supervisor"], signal.SIGKILL)
    all_gone(pids)
    wait_until(lambda: installed.twd("status").returncode == 0, "another one is there", timeout_s=60)
    after = installed.pids()
    assert after["supervisor"] != pids["supervisor"]
    guard = installed.record["guard"]
    assert "supervisor: it ended with code -9" in installed.twd("doctor").stdout
    os.kill(after["supervisor"], signal.SIGSTOP)
    assert json.loads(installed.twd("down", "--json").stdout)["killed"] is True
    all_gone({**after, "guard": guard})


@pytest.mark.parametrize("name", ["edge", pytest.param("broker", marks=pytest.mark.thorough)])
def test_a_killed_process_comes_back(house: Installed, name: str) -> None:
    before = house.pids()
    os.kill(before[name], signal.SIGKILL)
    wait_until(lambda: house.pids()[name] not in (0, before[name]), f"{name} has a new process")
    wait_until(lambda: house.status().get("healthy"), "all is well again", timeout_s=60)
    after = house.pids()
    assert {key: pid for key, pid in after.items() if key != name} == {
        key: pid for key, pid in before.items() if key != name
    }
    assert house.state_of("edge") == ("ready", after["edge"])  # and the lease of the dead one is gone


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.thorough),
        pytest.param(signal.SIGHUP, marks=pytest.mark.thorough),
    ],
)
def test_in_the_foreground_a_signal_drains(installed: Installed, number: int) -> None:
    with installed.foreground() as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("ready in ") for line in lines)
        pids = installed.pids()
        os.kill(process.pid, number)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert "a second Ctrl-C kills" in rest
    all_gone(pids)


@pytest.mark.thorough
@pytest.mark.skipif(not platform.IS_LINUX, reason="a guard must be able to adopt")
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_in_the_foreground_a_supervisor_that_is_killed_or_hangs_is_replaced(
    installed: Installed, blow: signal.Signals
) -> None:
    installed.env["TWD_HANG_S"] = "2"
    with installed.foreground("metrics") as process:
        assert process.stdout is not None
        assert any(line.startswith("ready in ") for line in iter(process.stdout.readline, ""))
        before = installed.pids()
        assert installed.record["guard"] == process.pid != before["supervisor"]
        os.kill(before["supervisor"], blow)
        assert any(line.startswith("ready in ") for line in iter(process.stdout.readline, ""))
        all_gone(before)
        after = installed.pids()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0
    all_gone(after)


@pytest.mark.thorough
def test_a_second_signal_kills(installed: Installed) -> None:
    installed.env["TWD_HANG_S"] = "0"
    with installed.foreground() as process:
        assert process.stdout is not None
        assert any(line.startswith("ready in ") for line in iter(process.stdout.readline, ""))
        pids = installed.pids()
        os.kill(pids["edge"], signal.SIGSTOP)  # it cannot drain
        os.kill(process.pid, signal.SIGINT)
        assert any("a second Ctrl-C kills" in line for line in iter(process.stdout.readline, ""))
        os.kill(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 130
    all_gone(pids)


def test_only_what_is_named_starts(installed: Installed) -> None:
    assert set(installed.up("metrics")["processes"]) == {"broker", "metrics"}
    assert installed.twd("down").returncode == 0
    wrong = installed.twd("up", "nonsense")
    assert wrong.returncode == 9
    assert "there is: agent, edge, metrics" in wrong.stderr


def test_a_taken_port_is_named_with_its_owner(installed: Installed) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", installed.port))
        taken.listen()
        refused = installed.twd("up", "-d")
    assert refused.returncode == 7
    assert f"pid {os.getpid()}" in refused.stderr
    assert "TWD_EDGE_PORT" in refused.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"TWD_EDGE_TLS_CERT": "/nowhere/c.pem", "TWD_EDGE_TLS_KEY": "/nowhere/k.pem"}, "certificate /nowhere/c.pem"),
        ({"TWD_BUS_PORT": "TWD_EDGE_PORT"}, "edge.port and bus.port are both"),
    ],
)
def test_what_the_edge_would_fail_of_again_and_again_is_refused(
    installed: Installed, env: dict[str, str], words: str
) -> None:
    refused = installed.twd("up", "-d", **{name: installed.env.get(value, value) for name, value in env.items()})
    assert refused.returncode == 7
    assert words in refused.stderr


def test_junk_in_the_state_folder_is_moved_aside_and_told(installed: Installed) -> None:
    run = installed.home / "run"
    run.mkdir(parents=True)
    (run / "instance.json").write_text("{half")
    (run / "lock").write_text("4711")
    (installed.home / "broker.token").write_text("junk")
    with installed.foreground("metrics") as process:
        assert process.stdout is not None
        told = []
        for line in iter(process.stdout.readline, ""):
            told.append(line)
            if line.startswith("ready in "):
                break
        os.kill(process.pid, signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 0
    assert any("instance.json" in line and "moved to" in line for line in told)
    assert any("broker.token" in line and "moved to" in line for line in told)


@pytest.mark.thorough
def test_a_model_that_is_not_there_is_a_clear_end(installed: Installed) -> None:
    config = installed.home.parent / "twd.yaml"
    config.write_text("models:\n  llama:\n    path: /nowhere/llama.gguf\n")
    refused = installed.twd("up", "-d")
    assert refused.returncode == 7
    assert "speculator.llama" in refused.stderr
    assert "/nowhere/llama.gguf" in refused.stderr
    assert installed.twd("status").returncode == 4


def test_detached_or_not_it_ends_with_the_same_reason(installed: Installed) -> None:
    (installed.home.parent / "twd.yaml").write_text("bus: {url: 'nats://127.0.0.1:1', nkey_file: nobody.nk}\n")
    for detached in ((), ("-d",)):
        done = installed.twd("up", *detached)
        assert done.returncode == 6, done.stderr
        assert done.stderr.splitlines()[-1].startswith("twd: bus.nkey_file or bus.nkey_dir: ")


def test_another_terminal_need_not_know_what_this_machine_is_called(installed: Installed) -> None:
    assert installed.twd("up", "-d", "--no-models", "metrics", TWD_NODE="desk").returncode == 0
    told = installed.twd("status", "--json")
    assert (told.returncode, json.loads(told.stdout)["missing"]) == (0, [])
    assert installed.twd("swap", "nothing").stderr.startswith("twd: there is no model 'nothing'")
    assert installed.twd("down").returncode == 0


def test_it_comes_up_even_if_its_reader_goes_away(installed: Installed) -> None:
    command = [*TWD, "up", "-d", "metrics"]
    with subprocess.Popen(command, env=installed.env, cwd=installed.home.parent, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
    assert installed.twd("down", "--json").stdout.startswith('{"ended": true')


def test_a_wrong_setting_ends_it_at_once(installed: Installed) -> None:
    (installed.home.parent / "twd.yaml").write_text("edge:\n  prot: 1\n")
    refused = installed.twd("up", "-d")
    assert refused.returncode == 6
    assert "twd.yaml:2" in refused.stderr
    assert "did you mean" in refused.stderr
