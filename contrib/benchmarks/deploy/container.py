"""How soon the container answers, beside `make demo`'s second run; the image is built as the Dockerfile says.

No container engine is needed, but root and debootstrap; the first time llama.cpp is compiled.

.venv/bin/python contrib/benchmarks/deploy/container.py [--turns 5]
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image import ROOT, Image, build
from running_image import RunningImage

from twd.net.ports import free_port

WAIT_S: Final = 120.0
POLL_S: Final = 0.02
PORT: Final = 8088
QUESTION: Final = {"model": "default", "messages": [{"role": "user", "content": "What is rain?"}], "max_tokens": 16}


def first_answer(url: str, key: Callable[[], str], began: float, said: str = "") -> float:
    """Ask what the health check asks until it succeeds, then a question; the seconds since `began`."""
    while time.monotonic() - began < WAIT_S:
        try:
            ask(f"{url}/v1/models", key(), None)
            answer = json.loads(ask(f"{url}/v1/chat/completions", key(), json.dumps(QUESTION).encode()))
            assert said in answer["choices"][0]["message"]["content"]
            return time.monotonic() - began
        except OSError:
            time.sleep(POLL_S)
    raise SystemExit(f"no answer within {WAIT_S:.0f} s")


def ask(url: str, key: str, body: bytes | None) -> bytes:
    """One request."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=WAIT_S) as answer:
        return bytes(answer.read())


def demo(home: Path) -> float:
    """One run of what `make demo` starts."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TWD_", "TIGHTWAD_"))}
    env |= {"TWD_HOME": str(home), "TWD_EDGE_PORT": str(port), "TWD_BUS_PORT": str(free_port())}
    program = Path(sys.executable).parent / "twd"
    began = time.monotonic()
    with (home.parent / "demo.log").open("ab") as log:
        process = subprocess.Popen([program, "up", "--demo"], env=env, cwd=home.parent, stdout=log, stderr=log)
    try:
        return first_answer(f"http://127.0.0.1:{port}", lambda: "", began)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)


def container(image: Image, volume: Path) -> float:
    """One start of the image with this volume as `/data`; its health check and its end are looked at, too."""
    with _folder() as folder, RunningImage(image, folder, (f"{volume}:/data",)) as running:
        began = time.monotonic()
        running.start()
        took = first_answer(f"http://{running.inside}:{PORT}", lambda: key_of(running), began)
        assert running.run("twd-healthy").returncode == 0
        running.signal(signal.SIGTERM)
        assert running.wait() == 0, running.log
    return took


def key_of(running: RunningImage) -> str:
    """The key that was drawn; empty until then."""
    kept = running.source("/data") / "credentials" / "edge.token"
    return kept.read_text().strip() if kept.exists() else ""


@contextmanager
def _folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="twd-container-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def new_volume(folder: Path) -> Path:
    """A volume as the image leaves it: whoever runs there may write."""
    volume = folder / "volume"
    shutil.rmtree(volume, ignore_errors=True)
    for part in (volume, volume / "logs"):
        part.mkdir()
        part.chmod(0o1777)
    return volume


def measure(image: Image, folder: Path, turns: int) -> dict[str, list[float]]:
    """Run each in turns; what a first run leaves behind is there before."""
    home = folder / "demo" / "home"
    home.parent.mkdir()
    demo(home)
    took: dict[str, list[float]] = {"demo": [], "first": [], "later": []}
    for turn in range(turns):
        took["demo"].append(demo(home))
        volume = new_volume(folder)
        took["first"].append(container(image, volume))
        took["later"].append(container(image, volume))
        print(f"turn {turn + 1}: {', '.join(f'{name} {row[-1]:.2f} s' for name, row in took.items())}", flush=True)
    return took


def table(took: dict[str, list[float]]) -> str:
    """The medians, and each beside the demo's."""
    named = {"demo": "`make demo`, second run", "later": "container, started again", "first": "container, empty volume"}
    usual = statistics.median(took["demo"])
    rows = ["| to the first answer | median, s | least, most | to the demo |", "|---|---|---|---|"]
    for name, label in named.items():
        row = took[name]
        median = statistics.median(row)
        rows.append(f"| {label} | {median:.2f} | {min(row):.2f}, {max(row):.2f} | {median / usual:.2f}x |")
    return "\n".join(rows)


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only-build", action="store_true")
    asked = parser.parse_args()
    image = build(ROOT / "Dockerfile")
    if not asked.only_build:
        with _folder() as folder:
            print(table(measure(image, folder, asked.turns)))


if __name__ == "__main__":
    main()
