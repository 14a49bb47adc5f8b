"""Machines of one bus ask for the same SPEC; the hub's link alone is narrow. Needs root, as spread.py.

sudo .venv/bin/python contrib/benchmarks/swarm/one_hub.py --program .venv/bin/twd --machines 1 4
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from links import address, inside, limit, machines, sent_bytes

HUB = Path(__file__).parents[2] / "hubs/serve.py"
SPEC = "org/model:Q4_K_M"


def environment(number: int, folder: Path, url: str) -> dict[str, str]:
    """The variables of one machine: a home and a name of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TWD_", "HF_"))}
    home = folder / str(number)
    home.mkdir(exist_ok=True)
    own = {
        "HOME": str(home),
        "TWD_HOME": str(home / "twd"),
        "TWD_NODE": f"machine{number}",
        "TWD_POOL_HOST": address(number),
    }
    return {**kept, **own, "HF_ENDPOINT": url, **({"TWD_BUS_HOST": "0.0.0.0"} if number == 1 else {})}


def done(number: int, env: dict[str, str], *command: str) -> str:
    """What a command on one machine prints; it must succeed."""
    return subprocess.run(inside(number, command), env=env, check=True, capture_output=True, text=True).stdout


@contextmanager
def running(command: list[str], **more: object) -> Iterator[subprocess.Popen[str]]:
    """A process until the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def until_all_are_there(program: str, env: dict[str, str], count: int) -> None:
    """Wait for a swarm service on each machine, and until they have met."""
    for _ in range(60):
        told = json.loads(done(1, env, program, "status", "--json"))
        if sum(one["service"] == "swarm" for one in told["services"]) == count:
            break
        time.sleep(0.5)
    time.sleep(3.0)


@contextmanager
def services(program: str, count: int, folder: Path, url: str) -> Iterator[list[dict[str, str]]]:
    """A broker and a swarm service on the first machine, a swarm service on each other; their variables."""
    variables = [environment(number, folder, url) for number in range(1, count + 1)]
    done(1, variables[0], program, "up", "-d", "--no-models")
    started = []
    try:
        for number, own in enumerate(variables[1:], 2):
            token = folder / f"join{number}.txt"
            token.write_text(done(1, variables[0], program, "token", "add"))
            done(number, own, program, "join", "--token-file", str(token))
            command = inside(number, [program, "run", "swarm"])
            started.append(subprocess.Popen(command, env=own, stderr=subprocess.DEVNULL))
        until_all_are_there(program, variables[0], count)
        yield variables
    finally:
        for one in started:
            one.terminate()
        done(1, variables[0], program, "down")


def measure(program: str, count: int, mib: int, mb_s: float) -> None:
    """All ask at once."""
    with machines(count + 1, 0.0), tempfile.TemporaryDirectory() as name:
        limit(0, mb_s)
        serve = inside(0, [sys.executable, str(HUB), "--host", address(0), "--mib", str(mib)])
        with running(serve) as hub:
            assert hub.stdout is not None
            url = hub.stdout.readline().strip()
            with services(program, count, Path(name), url) as variables:
                before, began = sent_bytes(0), time.monotonic()
                asked = [
                    subprocess.Popen(
                        inside(1, [program, "pull", SPEC, "--node", own["TWD_NODE"]]),
                        env=variables[0],
                        stdout=subprocess.DEVNULL,
                    )
                    for own in variables
                ]
                ended = [one.wait(280) for one in asked]
                seconds, sent = time.monotonic() - began, sent_bytes(0) - before
    told = {"machines": count, "ended": ended, "last_s": round(seconds, 1), "hub_sent_F": round(sent / (mib << 20), 3)}
    print(json.dumps(told), flush=True)


def main() -> None:
    """Each count of machines in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--mb-s", type=float, default=10.0)
    given = parser.parse_args()
    for count in given.machines:
        measure(given.program, count, given.mib, given.mb_s)


main()
